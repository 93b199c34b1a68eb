"""`dlc info`, `dlc profile` and `dlc cache`; colours."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dlc.cli import main
from dlc.cli.highlight import GraphLexer, LoopsLexer
from dlc.inspect.units import count, nbytes, plural, seconds
from dlc.runtime.cuda import device as cuda_device
from tests import fake_gpu

FILE = str(Path(__file__).with_name("example.py"))


def run(*args: str):
    return CliRunner().invoke(main, list(args))


def test_info():
    text = run("info").output
    for name in ("dlc", "python", "llvm", "host", "level", "vectors", "caches", "threads", "devices", "cache"):
        assert re.search(rf"^{name} +\S", text, re.MULTILINE), name


def test_info_lists_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(cuda_device, "_gpu", None)
    assert re.search(r"^devices +cpu$(.|\n)*^cuda +none: .*pip install cupy", run("info").output, re.MULTILINE)
    fake_gpu.use(monkeypatch)
    text = run("info").output
    assert re.search(r"^devices +cpu, cuda:0, cuda:1$", text, re.MULTILINE)
    assert re.search(r"^cuda:1 +Fake GPU, sm_90a, 256 MB, 256 MB free$", text, re.MULTILINE)


def test_profile_on_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    fake_gpu.use(monkeypatch)
    file = tmp_path / "on_gpu.py"
    file.write_text("import dlc\ndef f(x): return (x * 2).sum(1)\ndef example_args(): return (dlc.ones(4, 5),)\n")
    result = run("profile", f"{file}:f", "--device", "cuda", "--repeat", "2")
    assert result.exit_code == 0 and "1 kernel, 1 launch" in result.output, result.output
    assert run("profile", f"{file}:f", "--device", "cuda:9").output.startswith("dlc: no device 'cuda:9'")


def test_info_with_a_bad_setting(monkeypatch: pytest.MonkeyPatch):
    from dlc.runtime.cpu import host

    host.detect.cache_clear()
    monkeypatch.setenv("DLC_CPU", "pentium")
    try:
        result = run("info")
    finally:
        host.detect.cache_clear()
    assert result.exit_code == 2
    assert result.output == "dlc: DLC_CPU='pentium' is not a CPU level; expected one of sse2, avx2, avx512\n"


def test_profile():
    text = run("profile", f"{FILE}:train_step", "--repeat", "3").output
    header, *rows, last = text.strip().splitlines()
    assert header.split() == ["kernel", "launches", "time", "share", "bytes", "GB/s", "flop", "GFLOP/s", "source"]
    found = re.match(r"(\d+) kernels, (\d+) launches: .* in kernels, .* a call \(median of 3\)", last)
    assert found
    assert len(rows) == int(found[1])
    assert sum(float(share) for share in re.findall(r"([\d.]+)%", text)) == pytest.approx(100, abs=0.1 * len(rows))
    assert "example.py:" in text
    assert len(run("profile", f"{FILE}:train_step", "--repeat", "1", "--top", "2").output.strip().splitlines()) == 4


def test_profile_of_a_function_with_a_mistake(tmp_path: Path):
    code = "import dlc\n\ndef f(a):\n    return a @ a\n\nf.example_args = (dlc.ones(3, 4),)\n"
    (tmp_path / "wrong.py").write_text(code)
    result = run("profile", f"{tmp_path / 'wrong.py'}:f")
    assert result.exit_code == 2
    assert result.output.startswith("dlc: f: matmul: shapes (3, 4)") and "wrong.py:4, in f" in result.output


def test_functions_that_cannot_be_traced(tmp_path: Path):
    path = tmp_path / "odd.py"
    functions = "def g(x):\n    yield x\ndef r(x):\n    raise KeyError('mine')\n"
    path.write_text(functions + "def example_args():\n    return (1.0,)\n")
    for command in ("dump", "profile"):
        for name, message in (("g", "jit: g is a generator"), ("r", f"r: KeyError: 'mine' (at {path}:4)")):
            result = run(command, f"{path}:{name}")
            assert result.exit_code == 2
            assert result.output.startswith(f"dlc: {message}"), result.output


def test_profile_without_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DLC_INTERPRET", "1")
    result = run("profile", f"{FILE}:softmax")
    assert result.exit_code == 2
    assert result.output == "dlc: there is nothing to profile under DLC_INTERPRET=1\n"


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("DLC_CACHE", raising=False)
    from dlc.runtime import cache

    cache.default().put("key", b"x" * 5000)
    assert run("cache", "stats").output.startswith(f"{tmp_path}: 1 entry, 4.9")
    cache.tuned().put("kernel", b"schedule")
    assert run("cache", "stats").output.splitlines()[1:] == ["1 kernel measured by tuning"]
    assert re.match(r"removed 4\.9\d KB \(1 of 1 entries\)", run("cache", "clear").output)
    assert not cache.tuned().stats().entries
    assert run("cache", "stats").output.startswith(f"{tmp_path}: 0 entries, 0 B of 1.00 GB")
    monkeypatch.setenv("DLC_CACHE", "0")
    assert run("cache", "stats").output == "the cache is off (DLC_CACHE=0)\n"


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "dlc", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dlc, version ")
    done = subprocess.run([sys.executable, "-m", "dlc", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "No such command 'nonsense'" in done.stderr


def test_lexers_keep_the_text():
    graph = '  %0: f32[2,3] = contract(%x, %w.0) dtype=f32 spec="mk,nk->mn"  # train.py:12\n'
    loops = "  for v in 16 vector(16):\n    let t0 = x[v if v < 3] * 1.5e-05\n"
    for lexer, text in ((GraphLexer(), graph), (LoopsLexer(), loops)):
        assert "".join(value for _, value in lexer.get_tokens(text)) == text.lstrip("\n")
    kinds = {str(kind) for kind, _ in GraphLexer().get_tokens(graph)}
    assert {"Token.Name.Variable", "Token.Name.Function", "Token.Keyword.Type", "Token.Comment"} <= kinds


def test_units():
    assert [nbytes(n) for n in (0, 1023, 1024, 12600, 300 << 20)] == ["0 B", "1023 B", "1.00 KB", "12.3 KB", "300 MB"]
    assert [count(n) for n in (7, 12345, 4e6)] == ["7", "12.3k", "4.00M"]
    assert [seconds(t) for t in (5e-8, 1.234e-5, 0.004, 12.0)] == ["50 ns", "12.3 us", "4.00 ms", "12.0 s"]
    assert [plural(1, "launch"), plural(2, "launch"), plural(2, "kernel")] == ["1 launch", "2 launches", "2 kernels"]
