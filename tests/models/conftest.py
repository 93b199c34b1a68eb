"""The models' steps are jitted once a process, and traced again for each of the many small models made here."""

import pathlib

import pytest

HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:.* was traced .* times:RuntimeWarning"))
