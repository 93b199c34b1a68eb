"""Every test here runs compiled, and in a slow run once more on the graph interpreter, which is what users meet under
`DLC_INTERPRET=1`. Modules that set `COMPILED = True` only run compiled.
"""

import sys

import pytest

import dlc


def pytest_generate_tests(metafunc):
    if not getattr(metafunc.module, "COMPILED", False):
        metafunc.parametrize("way", ["compiled", pytest.param("interpreted", marks=pytest.mark.slow)], indirect=True)


@pytest.fixture(autouse=True)
def way(request, monkeypatch):
    name = getattr(request, "param", "compiled")
    if name == "interpreted":
        monkeypatch.setenv("DLC_INTERPRET", "1")
    else:
        monkeypatch.delenv("DLC_INTERPRET", raising=False)
    dlc.manual_seed(0)
    if "torch" in sys.modules:  # whose layers the weights come from
        sys.modules["torch"].manual_seed(0)
    return name
