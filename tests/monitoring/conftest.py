"""The stack that other tests share, too."""

from tests.integration.one_stack.conftest import stack

__all__ = ["stack"]
