"""The stack that other tests share, too."""

from tests.integration.conftest import stack

__all__ = ["stack"]
