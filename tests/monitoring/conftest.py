"""The stack that other tests share, too."""

from tests.integration.with_one_stack.conftest import stack

__all__ = ["stack"]
