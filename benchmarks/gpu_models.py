"""The anchors' GPU cases on this machine's GPU: is every step right, and how long does it take?

    python -m benchmarks.gpu_models [CASE ...] [--budget 500] [--top 8] [--no-check] [--torch] [--tf32] [--list]

Each case runs in a process of its own, so that a kernel which kills its context ends only its case. A training step is
checked against PyTorch on the same GPU from the same weights (the losses of four steps, and the gradient of each
parameter at the first), a kernel against PyTorch's result in float32; then dlc is timed, and with --torch the peer too.
With --tf32 float32 products of both are of precision "high"; PyTorch's own error is then the measure, as with bf16.
--top prints each case's slowest kernels. Needs CuPy and PyTorch; nothing else of NVIDIA's. Prints a table as it goes;
JSON goes to $OUT/gpu_models.json if $OUT is set.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import gpt, kernels, lstm, mlp, resnet, unet
from benchmarks.training import LEARNING_RATE, Training

CHUNKS, CHUNK_SECONDS = 5, 0.25  # a time is the median of so many runs of about so long
STEPS = 4  # checked
GPT_124M = {"BATCH": 16, "LAYERS": 12, "HEADS": 12, "WIDTH": 768, "CONTEXT": 1024, "VOCABULARY": 50304}
UNET = {"BATCH": 64, "CHANNELS": (64, 128, 256)}
WIDE, ATTENTION = {"ROWS": 8192}, {"BATCH": 16, "HEADS": 16, "LENGTH": 2048}


@dataclass(frozen=True)
class GpuCase:
    """A case at the size of the GPU anchors.

    `must` is the most milliseconds that the project allows itself, `peer` the best peer's; `settings` are constants of
    `module` as the case has them.
    """

    name: str
    module: Any
    must: float = 0.0
    peer: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    training: Callable[[], Training] | None = None
    dlc: Callable[..., Any] | None = None
    torch: Callable[..., Any] | None = None
    shapes: Callable[[], list[tuple[int, ...]]] | None = None
    bf16: bool = False


def _step(name: str, module: Any, must: float, peer: float, model: str = "model", loss: str = "loss",
          batch: Callable[[], Any] | None = None, bf16: bool = False, dropout: float = 0.0, **settings: Any) -> GpuCase:
    def training() -> Training:
        make = batch() if batch is not None else module.batch
        return Training(name, getattr(module, model), getattr(module, loss), None, make, bf16, dropout)  # type: ignore

    return GpuCase(name, module, must, peer, settings, training, bf16=bf16)


def _lstm(name: str, must: float, peer: float, *sizes: int) -> GpuCase:
    """The language model's text is inside `lstm.lstm`: caught on its way into a case."""

    def training() -> Training:
        kept, caught = lstm.training_case, []
        lstm.training_case = caught.append  # type: ignore[assignment]
        try:
            lstm.lstm(name, *sizes)
        finally:
            lstm.training_case = kept
        return caught[0]

    return GpuCase(name, lstm, must, peer, training=training)


def _kernel(name: str, must: float, peer: float, dlc: Any, torch: Any, shapes: Any, bf16: bool = False,
            **settings: Any) -> GpuCase:
    return GpuCase(name, kernels, must, peer, settings, None, dlc, torch, shapes, bf16)


def _gemm(n: int, must: float, peer: float, bf16: bool) -> GpuCase:
    name = f"gemm_{n}" + ("_bf16" if bf16 else "")
    return _kernel(name, must, peer, operator.matmul, operator.matmul, lambda: [(n, n), (n, n)], bf16)


def _matrix() -> tuple[int, int]:
    return kernels.ROWS, kernels.COLUMNS


def _row() -> tuple[int]:
    return (kernels.COLUMNS,)


CASES = {case.name: case for case in [
    _kernel("k_chain", 0.137, 0.134, kernels.chain_dlc, kernels.chain_torch,
            lambda: [_matrix(), _row(), _matrix()], **WIDE),
    _kernel("k_softmax", 0.094, 0.093, kernels.softmax_dlc, kernels.softmax_torch, lambda: [_matrix()], **WIDE),
    _kernel("k_layernorm", 0.094, 0.093, kernels.layernorm_dlc, kernels.layernorm_torch,
            lambda: [_matrix(), _row(), _row()], **WIDE),
    _kernel("k_sum0", 0.052, 0.052, lambda x: x.sum(0), lambda x: x.sum(0), lambda: [_matrix()], **WIDE),
    _kernel("k_transpose", 0.098, 0.097, lambda x: x.T + 1, lambda x: (x.T + 1).contiguous(),
            lambda: [_matrix()], **WIDE),
    _gemm(4096, 0.24, 0.191, True),
    _gemm(8192, 1.9, 1.52, True),
    _gemm(4096, 3.0, 2.66, False),
    _gemm(1024, 0.0, 0.017, True),
    _kernel("k_attn", 0.60, 0.365, kernels.attention_dlc, kernels.attention_torch,
            lambda: [(kernels.BATCH, kernels.HEADS, kernels.LENGTH, kernels.WIDTH)] * 3, True, **ATTENTION),
    _step("mlp_resnet", mlp, 0.40, 3.21, dropout=0.1),
    _step("resnet9_course", resnet, 0.75, 0.92, "course_model", "course_loss", lambda: resnet.images(128)),
    _lstm("lstm_course", 1.4, 1.63, 30, 100, 1, 40, 16),
    _step("gpt_char", gpt, 0.0, 14.5, BATCH=64),
    _step("gpt_char_bf16", gpt, 7.5, 6.29, bf16=True, BATCH=64),
    _step("resnet9_dawn", resnet, 0.0, 8.52, "dawn_model", "dawn_loss", lambda: resnet.images(512)),
    _step("resnet9_dawn_bf16", resnet, 7.0, 5.69, "dawn_model", "dawn_loss", lambda: resnet.images(512), bf16=True),
    _lstm("lstm_medium", 4.4, 4.39, 650, 650, 2, 35, 20),
    _step("unet", unet, 0.0, 5.74, **UNET),
    _step("gpt2_124m_bf16", gpt, 50.0, 36.1, bf16=True, **GPT_124M),
]}  # fmt: skip


@contextlib.contextmanager
def settings(case: GpuCase) -> Iterator[None]:
    """The constants of the case's module at the GPU's sizes."""
    saved = {name: getattr(case.module, name) for name in case.settings}
    for name, value in case.settings.items():
        setattr(case.module, name, value)
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(case.module, name, value)


# --- one case, in its own process --------------------------------------------------------------------------------


def measure(case: GpuCase, check: bool, peer: bool, top: int, tf32: bool = False) -> dict[str, Any]:
    """What the table shows of a case."""
    import dlc

    dlc.set_float32_matmul_precision("high" if tf32 else "highest")
    if case.bf16 and case.training is not None and not hasattr(dlc, "autocast"):
        return {"note": "needs dlc.autocast"}
    with settings(case):
        return (_measure_step if case.training is not None else _measure_kernel)(case, check, peer, top)


def _measure_step(case: GpuCase, check: bool, peer: bool, top: int) -> dict[str, Any]:
    import torch

    assert case.training is not None
    training, out = case.training(), {}
    _torch_tf32(False)
    torch.manual_seed(0)
    start = {k: v.detach().clone() for k, v in training.model(torch, 0.0).state_dict().items()}
    batch = training.batch(np.random.default_rng(0))
    step = _dlc_step(training, start, batch, training.dropout)
    out.update(_time_dlc(step, step.function, step.arguments, top))  # first: nothing is compiled yet
    del step
    if check or peer:
        step = _torch_step(training, start, batch)
        expected = [float(step()) for _ in range(STEPS)]
        if peer:
            _torch_tf32(_tf32())
            out["torch_ms"] = _time(step, torch.cuda.synchronize)[0] * 1e3
            _torch_tf32(False)
        del step
        torch.cuda.empty_cache()
    if check:
        step = _dlc_step(training, start, batch, 0.0)
        got = [float(step()) for _ in range(STEPS)]
        errors = [abs(a - b) / max(abs(b), 1e-6) for a, b in zip(got, expected, strict=True)]
        allowed = (5e-3, 5e-3, 3e-2, 3e-2) if training.bf16 or _tf32() else (1e-4, 1e-3, 3e-3, 5e-3)
        del step
        wrong = wrong_gradients(training, start, batch)
        out.update(losses=got, expected=expected, error=max(errors), wrong_gradients=wrong,
                   right=not wrong and all(e <= a for e, a in zip(errors, allowed, strict=True)))
    return out


def wrong_gradients(training: Training, start: dict[str, Any], batch: list[np.ndarray],
                    device: str = "cuda") -> list[str]:
    """The parameters whose gradient is too far from PyTorch's in float32, each with its error and what is allowed.

    The loss hardly shows a wrong gradient, and Adam's steps have its sign only. An error is relative to the gradient's
    norm or, where that is all but zero (a bias in front of a normalisation), to a hundredth of a mean one's. With bf16
    or TF32, PyTorch's own error is the measure: twice that, and 2% at least.
    """
    exact = _torch_gradients(training, start, batch, device, False)
    got = _dlc_gradients(training, start, batch, device)
    _torch_tf32(_tf32())
    own = _torch_gradients(training, start, batch, device, training.bf16) if training.bf16 or _tf32() else None
    _torch_tf32(False)
    mean = math.sqrt(sum(float((g**2).sum()) for g in exact.values()) / sum(g.size for g in exact.values()))

    def error(gradients: dict[str, np.ndarray], name: str) -> float:
        want = exact[name]
        scale = float(np.linalg.norm(want)) + 1e-2 * mean * math.sqrt(want.size)
        return float(np.linalg.norm(gradients[name] - want)) / scale

    wrong = []
    for name in exact:
        allowed = 5e-3 if own is None else max(2e-2, 2 * error(own, name))
        if not error(got, name) <= allowed:  # not a number is wrong too
            wrong.append(f"{name}: {error(got, name):.1e} (allowed {allowed:.1e})")
    return wrong


def _tf32() -> bool:
    import dlc

    return dlc.get_float32_matmul_precision() == "high"


def _torch_tf32(allowed: bool) -> None:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def _torch_gradients(training: Training, start: dict[str, Any], batch: list[np.ndarray], device: str,
                     bf16: bool) -> dict[str, np.ndarray]:
    import torch

    model = training.model(torch, 0.0)
    model.load_state_dict(start)
    model.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        loss = training.loss(torch, model, *[torch.from_numpy(a).to(device) for a in batch])
    loss.backward()
    return {name: p.grad.double().cpu().numpy() for name, p in model.named_parameters()}


def _dlc_gradients(training: Training, start: dict[str, Any], batch: list[np.ndarray],
                   device: str) -> dict[str, np.ndarray]:
    import dlc
    import dlc.nn.functional

    model = training.model(dlc, 0.0)
    model.load_state_dict({name: tensor.numpy() for name, tensor in start.items()})
    model.to(device)

    @dlc.jit
    def gradients(*batch: Any) -> Any:
        with dlc.autocast(dlc.bfloat16) if training.bf16 else contextlib.nullcontext():
            loss = training.loss(dlc, model, *batch)
        loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}

    found = gradients(*[dlc.asarray(a, device=device) for a in batch])
    return {name: gradient.numpy().astype(np.float64) for name, gradient in found.items()}


def _torch_step(training: Training, start: dict[str, Any], batch: list[np.ndarray]) -> Callable[[], Any]:
    import torch

    model = training.model(torch, 0.0)
    model.load_state_dict(start)
    model.cuda()
    arguments = [torch.from_numpy(a).cuda() for a in batch]
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> Any:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=training.bf16):
            loss = training.loss(torch, model, *arguments)
        loss.backward()
        optimizer.step()
        return loss

    return step


class _Call:
    """A jitted function on its arguments."""

    def __init__(self, function: Any, arguments: list[Any]):
        self.function, self.arguments = function, arguments

    def __call__(self) -> Any:
        return self.function(*self.arguments)


def _dlc_step(training: Training, start: dict[str, Any], batch: list[np.ndarray], dropout: float) -> _Call:
    import dlc
    import dlc.nn.functional
    import dlc.optim

    model = training.model(dlc, dropout)
    model.load_state_dict({name: tensor.numpy() for name, tensor in start.items()})
    model.to("cuda")
    optimizer = dlc.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    @dlc.jit
    def step(*batch: Any) -> Any:
        optimizer.zero_grad()
        with dlc.autocast(dlc.bfloat16) if training.bf16 else contextlib.nullcontext():
            loss = training.loss(dlc, model, *batch)
        loss.backward()
        optimizer.step()
        return loss

    return _Call(step, [dlc.asarray(a, device="cuda") for a in batch])


def _measure_kernel(case: GpuCase, check: bool, peer: bool, top: int) -> dict[str, Any]:
    import torch

    import dlc
    import dlc.nn.functional

    assert case.shapes is not None and case.dlc is not None and case.torch is not None
    _torch_tf32(False)
    rng = np.random.default_rng(0)
    arrays, out = [rng.standard_normal(s, np.float32) for s in case.shapes()], {}
    dtype = (dlc.bfloat16, torch.bfloat16) if case.bf16 else (dlc.float32, torch.float32)
    ours = [dlc.asarray(a, device="cuda").to(dtype[0]).realize() for a in arrays]
    call = _Call(dlc.jit(case.dlc), ours)
    out.update(_time_dlc(call, call.function, call.arguments, top))
    theirs = [torch.from_numpy(a).cuda().to(dtype[1]) for a in arrays]
    if check:
        expected = case.torch(*[t.float() for t in theirs])
        got = torch.from_numpy(call().float().numpy()).cuda()
        out["error"] = float((got - expected).norm() / expected.norm())
        out["right"] = bool(out["error"] <= (1e-2 if case.bf16 else 1e-3 if _tf32() else 1e-5))
        del expected, got
    if peer:
        _torch_tf32(_tf32())
        out["torch_ms"] = _time(lambda: case.torch(*theirs), torch.cuda.synchronize)[0] * 1e3
    return out


def _time_dlc(call: Callable[[], Any], function: Any, arguments: list[Any], top: int) -> dict[str, Any]:
    from dlc.runtime import devices
    from dlc.runtime.cuda import memory as cuda_memory

    begin = time.perf_counter()
    call()
    devices.synchronize("cuda:0")
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    call()  # the graph is made
    devices.synchronize("cuda:0")
    second = time.perf_counter() - begin
    spent, submitted = _time(call, lambda: devices.synchronize("cuda:0"))
    (entry,) = next(iter(function._entries.values()))
    plan = entry.executable.plan
    return {
        "ms": spent * 1e3, "host_ms": submitted * 1e3, "first_s": first, "second_s": second,
        "kernels": len(plan.functions), "launches": plan.launches(),
        "arena_mb": plan.arena_bytes / 2**20, "held_mb": cuda_memory.use(0).bytes / 2**20,
        "top": _slowest(function, entry, arguments, top) if top else [],
    }  # fmt: skip


def _time(call: Callable[[], Any], wait: Callable[[], None]) -> tuple[float, float]:
    """Seconds a call, and of these the seconds until the call returns."""
    for _ in range(3):
        call()
    wait()
    begin = time.perf_counter()
    for _ in range(3):
        call()
    wait()
    count = max(3, int(CHUNK_SECONDS / ((time.perf_counter() - begin) / 3)))
    whole, host = [], []
    for _ in range(CHUNKS):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        host.append((time.perf_counter() - begin) / count)
        wait()
        whole.append((time.perf_counter() - begin) / count)
    return statistics.median(whole), statistics.median(host)


def _slowest(function: Any, entry: Any, arguments: list[Any], top: int) -> list[dict[str, Any]]:
    """The slowest kernels of a step, each run alone between two events."""
    from dlc.inspect.launches import lines, work
    from dlc.runtime import programs

    executable = programs.compile_graph(entry.graph, entry.donate, function.name, device=entry.device, profile=True,
                                      tf32=_tf32())
    kept, entry.executable = entry.executable, executable
    for _ in range(3):
        function(*arguments)
    counters = np.frombuffer(executable.times, np.int64)
    counters[:] = 0
    for _ in range(5):
        function(*arguments)
    entry.executable = kept
    spent = counters / 5e9
    rows = [{"kernel": w.kernel.name, "launches": w.launches, "us": float(spent[w.places].sum()) * 1e6,
             "gb_s": w.bytes / max(float(spent[w.places].sum()), 1e-12) / 1e9, "lines": lines(w.kernel),
             "gflop_s": w.flops / max(float(spent[w.places].sum()), 1e-12) / 1e9,
             "schedule": repr(w.kernel.schedule)} for w in work(executable.program)]  # fmt: skip
    return sorted(rows, key=lambda r: -r["us"])[:top]


# --- all cases ---------------------------------------------------------------------------------------------------


def run(case: GpuCase, seconds: float, options: list[str], cache: str) -> dict[str, Any]:
    """Measure a case in a new process."""
    command = [sys.executable, "-m", "benchmarks.gpu_models", "--one", case.name, *options]
    environment = os.environ | {"DLC_CACHE_DIR": cache}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"note": f"stopped after {seconds:.0f} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    return {"note": f"died with {done.returncode}", "log": (done.stderr or done.stdout)[-2000:]}


def _row_of(case: GpuCase, result: dict[str, Any]) -> str:
    if "ms" not in result:
        text = result.get("note", "?")
        log = result.get("log", "").rstrip()
        return f"{case.name:20} {text}" + ("\n    " + log.replace("\n", "\n    ") if log else "")
    right = {True: "right", False: "WRONG", None: "-"}[result.get("right")]
    must = f"{case.must:8.3f}{' ok' if result['ms'] <= case.must else '   '}" if case.must else " " * 11
    return (
        f"{case.name:20} {right:6} {result.get('error', 0):8.1e} {result['ms']:9.4f} {must} {case.peer:8.3f} "
        f"{result.get('torch_ms', 0):8.3f} {result['host_ms']:8.4f} {result['first_s']:7.2f} {result['warm_s']:7.2f} "
        f"{result['kernels']:7} {result['launches']:8} {result['held_mb']:8.0f}"
    )


@click.command()
@click.argument("names", nargs=-1)
@click.option("--budget", default=500.0, show_default=True, help="Seconds for all; later cases are left out.")
@click.option("--case-seconds", default=150.0, show_default=True, help="Seconds for one case.")
@click.option("--top", default=0, help="Print each case's N slowest kernels.")
@click.option("--check/--no-check", default=True, help="Compare with PyTorch.")
@click.option("--torch", "peer", is_flag=True, help="Time PyTorch (eager) too.")
@click.option("--tf32", is_flag=True, help="float32 products of precision \"high\".")
@click.option("--warm/--no-warm", default=True, help="A second process for the first call with a warm disk cache.")
@click.option("--one", hidden=True)
@click.option("--list", "list_", is_flag=True, help="Name the cases.")
def main(names: tuple[str, ...], budget: float, case_seconds: float, top: int, check: bool, peer: bool, tf32: bool,
         warm: bool, one: str | None, list_: bool) -> None:
    """Check and time CASES (all, if none is named) on the GPU."""
    if list_:
        click.echo("\n".join(CASES))
        return
    if one:
        try:
            result = measure(CASES[one], check, peer, top, tf32)
        except Exception as error:
            result = {"note": f"{type(error).__name__}: {str(error)[:300]}", "log": traceback.format_exc()[-2500:]}
        click.echo(json.dumps(result))
        return
    if unknown := [n for n in names if n not in CASES]:
        raise click.UsageError(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    end, results = time.monotonic() + budget, {}
    options = [f"--top={top}", "--check" if check else "--no-check", *(["--torch"] if peer else []),
               *(["--tf32"] if tf32 else [])]
    click.echo(f"{'case':20} {'':6} {'error':>8} {'ms':>9} {'at most':>8}    {'peer':>8} {'torch':>8} {'host ms':>8} "
               f"{'first s':>7} {'warm s':>7} {'kernels':>7} {'launches':>8} {'held MB':>8}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in names or CASES:
            left = end - time.monotonic()
            if left < 10:
                click.echo(f"{name:20} no time left")
                continue
            cache = str(Path(folder) / name)
            result = results[name] = run(CASES[name], min(left, case_seconds), options, cache)
            if warm and "ms" in result and end - time.monotonic() > 10:
                again = run(CASES[name], min(end - time.monotonic(), case_seconds),
                            ["--no-check", *options[2 + peer:]], cache)
                result["warm_s"] = again.get("first_s", 0.0)
            result.setdefault("warm_s", 0.0)
            click.echo(_row_of(CASES[name], result))
            for line in result.get("wrong_gradients", []):
                click.echo(f"    gradient of {line}")
            for row in result.get("top", []):
                rates = f"{row['gb_s']:7.0f} GB/s {row['gflop_s']:8.0f} GFLOP/s"
                source = f"{row['kernel']}  {row['schedule']}  {row['lines']}"
                click.echo(f"    {row['us']:9.1f} us {row['launches']:4}x {rates}  {source}")
            sys.stdout.flush()
            if place := os.environ.get("OUT"):
                Path(place, "gpu_models.json").write_text(json.dumps(results, indent=1))
    if any(r.get("right") is False or "ms" not in r for r in results.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
