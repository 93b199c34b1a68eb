"""As in tests/nn: compiled, and interpreted in a slow run, unless the module sets `COMPILED`."""

from tests.nn.conftest import pytest_generate_tests, way

__all__ = ["pytest_generate_tests", "way"]
