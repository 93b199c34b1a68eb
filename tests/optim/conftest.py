"""As in tests/nn: interpreted, unless the module sets `COMPILED`."""

from tests.nn.conftest import interpreter

__all__ = ["interpreter"]
