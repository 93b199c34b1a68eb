"""`dlc dump`: every stage of small targets, and one clear line for every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dlc.cli import main
from dlc.cli.difference import difference
from dlc.inspect.stages import GRAPH_STAGES
from dlc.ir.graph.text import parse_graph, print_graph
from dlc.ir.loops.parse import parse_kernel
from dlc.ir.loops.text import print_kernel
from tests.runtime.test_cuda_modules import HAS_NVRTC

FILE = str(Path(__file__).with_name("example.py"))
MODELS = Path(__file__).parents[2] / "models"


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def dump(function: str, *options: str) -> str:
    result = run("dump", f"{FILE}:{function}", *options)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("stage", GRAPH_STAGES)
def test_graph_stages_parse(stage: str):
    text = dump("train_step", "--stage", stage).strip()
    assert "%model.0.weight: f32[16,8]" in text
    assert "example.py:" in text
    bare = re.sub(r"uid=\d+", "uid=0", print_graph(parse_graph(text), locs=False))
    assert bare == re.sub(r"uid=\d+", "uid=0", re.sub(r" *# [^\n]*", "", text))


@pytest.mark.parametrize("stage", ["loops", "scheduled"])
def test_kernel_stages_parse(stage: str):
    text = dump("train_step", "--stage", stage)
    kernels = re.split(r"\n\n(?=kernel )", text.strip())
    assert len(kernels) > 3
    for kernel in kernels:
        assert print_kernel(parse_kernel(kernel)).strip() == kernel
    assert dump("train_step", "--stage", stage, "--kernel", "1").strip() == kernels[1]


def test_loops_are_not_vectorised_and_scheduled_are():
    assert "vector" not in dump("softmax", "--stage", "loops")
    assert "vector" in dump("softmax", "--stage", "scheduled")


def test_program_says_where_everything_lives():
    text = dump("train_step", "--stage", "program")
    assert re.match(r"program train_step: \d+ kernels, \d+ launches, arena of [\d.]+ K?B\n", text)
    assert re.search(r"\n  out\d+: f32\[128\], 512 B, in place of model.0.weight\n", text)
    assert re.search(r"\n  \S+: f32\[\d+\], [\d.]+ K?B at \d+\n", text)


def test_program_of_a_loop():
    text = dump("recurrence", "--stage", "program")
    assert "  repeat 7:\n    " in text
    assert "4*i" in text


def test_llvm_and_asm():
    assert "define void @dlc_entry(ptr %slots, ptr %arena)" in dump("softmax", "--stage", "llvm")
    assert "dlc_entry:" in dump("softmax", "--stage", "asm")


@pytest.mark.parametrize(("device", "arch"), [("cuda:sm_80", "sm_80"), ("cuda:sm_90", "sm_90a")])
def test_stages_of_a_gpu(device: str, arch: str):
    assert f"// for {arch}" in (text := dump("softmax", "--stage", "cuda", "--device", device))
    assert 'extern "C" __global__ void' in text and "example.py:" in text
    for stage in ("fused", "loops", "scheduled", "program"):
        assert dump("train_step", "--stage", stage, "--device", device)
    if HAS_NVRTC:
        assert f".target {arch}" in dump("train_step", "--stage", "ptx", "--device", device)
        sass = run("dump", f"{FILE}:softmax", "--stage", "sass", "--device", device).output
        assert "EXIT" in sass or sass.startswith("dlc: the stage sass needs NVIDIA's disassembler")


def kernel_count(text: str) -> int:
    """The kernels by the last line, which must agree with the paragraphs."""
    found = re.fullmatch(r"(\d+) kernels?, (\d+) launch(?:es)?", text.strip().splitlines()[-1])
    assert found, text
    paragraphs = re.findall(r"^kernel \d+ \w+: (\d+) launch", text, re.MULTILINE)
    assert len(paragraphs) == int(found[1])
    assert sum(map(int, paragraphs)) == int(found[2])
    copies = re.findall(r"^kernel \d+ (\w+): .*\n  computes  a copy of a result", text, re.MULTILINE)
    assert all(name.startswith(("copy", "zero", "clear")) for name in copies), copies  # all others are a group's
    return int(found[1])


@pytest.mark.parametrize("function", ["softmax", "layer_norm", "cross_entropy"])
def test_well_known_functions_are_at_most_two_kernels(function: str):
    text = dump(function)
    assert kernel_count(text) <= 2, text
    for label in ("computes", "reads", "writes", "schedule", "from"):
        assert f"\n  {label}" in text


def test_an_optimizer_step_is_one_kernel():
    text = dump("adam_step")
    assert kernel_count(text) <= 2, text  # the other counts the step
    assert "on 6 sets of tensors" in text
    assert "%updated.0.weight.grad: f32[16,8]" in text


def test_fused_names_what_a_training_step_reads():
    text = dump("train_step")
    kernel_count(text)
    assert "%model.0.weight: f32[16,8]" in text
    assert "%optimizer.state.model.0.weight.exp_avg: f32[16,8]" in text
    assert "%x: f32[6,8]" in text
    assert re.search(r"from +example.py:\d+", text)


def test_fused_counts_the_turns_of_a_loop():
    text = dump("recurrence", "--stage", "fused")
    assert re.search(r"^kernel \d+ \w*tanh\w*: 7 launches", text, re.MULTILINE), text


def test_functions_without_parameters_need_no_example():
    assert "iota" in dump("nothing", "--stage", "graph")


def test_models_can_be_dumped():
    for name in ("mlp", "cnn"):
        for function in ("train_step", "predict"):
            result = run("dump", f"{MODELS / name}.py:{function}", "--stage", "graph")
            assert result.exit_code == 0, result.output
    assert run("dump", "models.mlp:predict", "--stage", "graph").exit_code == 0


def test_diff_of_graph_stages():
    text = dump("train_step", "--diff", "graph", "grad")
    assert text.startswith("--- graph\n+++ grad\n@@ ")
    assert re.search(r"^-.* = vjp\(", text, re.MULTILINE)
    assert re.search(r"^\+.* = contract\(", text, re.MULTILINE)
    assert dump("train_step", "--diff", "graph", "graph") == "graph and graph are the same\n"


def test_diff_does_not_mind_renumbering():
    a = "graph f(%x: f32[]) {\n  %0: f32[] = exp(%x)\n  %1: f32[] = log(%0)\n  return %1\n}"
    b = "graph f(%x: f32[]) {\n  %0: f32[] = neg(%x)\n  %1: f32[] = exp(%x)\n  %2: f32[] = log(%1)\n  return %2\n}"
    assert [line for line in difference(a, b, "a", "b").splitlines() if line[0] in "+-"] == [
        "--- a", "+++ b", "+  %0: f32[] = neg(%x)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([f"{FILE}:train_step", "--stage", "fuse"], "no stage 'fuse'; there are graph, target-ops, padding-taps, "),
        ([f"{FILE}:train_step", "--diff", "graph", "llvm"], "--diff compares graphs, and llvm is none"),
        ([f"{FILE}:train_step", "--diff", "graph", "nope"], "no stage 'nope'"),
        ([f"{FILE}:train_step", "--kernel", "1"], "--kernel needs --stage loops or scheduled"),
        ([f"{FILE}:softmax", "--stage", "loops", "--kernel", "9"], "no kernel 9: "),
        ([f"{FILE}:train_stop"], "has no 'train_stop'; its jitted functions are train_step, adam_step, recurrence"),
        ([f"{FILE}:optimizer"], "is a Adam, not a function"),
        ([f"{FILE}:softmax", "--stage", "asm", "--device", "cuda"], "there is no stage asm for device cuda"),
        ([f"{FILE}:softmax", "--stage", "ptx", "--device", "cpu"], "there is no stage ptx for device cpu"),
        ([f"{FILE}:softmax", "--device", "cuda:sm_12"], "unknown GPU architecture 'sm_12'; known are sm_80, "),
        ([f"{FILE}:softmax", "--device", "tpu"], "no device 'tpu'; devices are 'cpu', 'cuda' and 'cuda:N'"),
        (["missing.py:f"], "no file missing.py"),
        (["no.such.module:f"], "no module 'no.such.module'"),
        (["train_step"], "'train_step' is no target: write file.py:function or module:function"),
        ([f"{FILE}:__doc__"], "is a str, not a function"),
        ([f"{FILE}:one_tensor"], "one_tensor.example_args is a int, not a tuple"),
        ([f"{FILE}:broken_hook"], "example_args_broken_hook(): NameError: name 'undefined_name' is not defined (at "),
        ([f"{FILE}:wrong"], "matmul"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_message(args: list[str], message: str):
    result = run("dump", *args)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert result.output.startswith("dlc: ")


def test_the_users_line_is_named():
    assert re.search(r"example\.py:\d+", run("dump", f"{FILE}:wrong").output)


def test_files_with_mistakes(tmp_path: Path):
    bad = tmp_path / "bad.py"
    bad.write_text("import dlc\nx = 1 / 0\n")
    result = run("dump", f"{bad}:f")
    assert result.exit_code == 2
    assert f"ZeroDivisionError: division by zero (at {bad}:2)" in result.output
    bad.write_text("def f(:\n")
    assert "SyntaxError" in run("dump", f"{bad}:f").output
    bad.write_text("def f(x): return x\n")
    assert "define example_args_f() or example_args()" in run("dump", f"{bad}:f").output


def test_tuned_schedules_are_shown_where_tuning_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from dlc.runtime.tuning import search, session

    def last(subject, machine):
        trial = subject.trial(subject.schedules[-1])
        return search.Winner(trial.schedule, trial.places, ())

    monkeypatch.setenv("DLC_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("DLC_CACHE", raising=False)
    monkeypatch.setattr(search, "search", last)
    monkeypatch.setattr(session, "WORTH_NS", 0)
    before = dump("train_step", "--stage", "scheduled")
    monkeypatch.setenv("DLC_TUNE", "1")
    assert dump("train_step", "--stage", "scheduled") == before  # nothing is measured for a dump
    assert run("profile", f"{FILE}:train_step", "--repeat", "1").exit_code == 0
    after = dump("train_step", "--stage", "scheduled")
    assert re.search(r"schedule: Contract\([^)]*\) tuned;", after)
    assert re.search(r"schedule: Map\([^)]*\) tuned;", after)
    assert re.search(r"schedule +Contract\([^)]*\) tuned\n", dump("train_step", "--stage", "fused"))
    for kernel in re.split(r"\n\n(?=kernel )", after.strip()):
        assert print_kernel(parse_kernel(kernel)).strip() == kernel
    monkeypatch.delenv("DLC_TUNE")
    assert dump("train_step", "--stage", "scheduled") == before
