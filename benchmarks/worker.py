"""One process that runs one peer's program of one case, on the controller's word.

It is spawned fresh, so that its first call's time and its memory are its own. It answers over a pipe with ("ok", value)
or ("error", traceback).
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.case import Arrays, Program

LIBRARY = {"torch": "torch", "compile": "torch", "jax": "jax", "dlc": "dlc", "reference": "torch"}


@dataclass(frozen=True)
class Started:
    """How a worker came up. Times in seconds, memory in bytes.

    `build` is from inputs to a program ready to be called, `first_call` is one iteration with whatever it traces and
    compiles; `memory` is the peak until then, `memory_at_import` what the process had before it built anything.
    """

    build: float
    first_call: float
    memory: int
    memory_at_import: int


def environment(threads: int, cache: Path) -> dict[str, str]:
    """Variables of a worker: the number of threads, and disk caches in a folder of its own (empty: a cold start)."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "DLC_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": "1",  # NumPy only makes inputs and reads outputs
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={count}",
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "DLC_CACHE_DIR": str(cache / "dlc"),
    }


def main(pipe: Connection, case: str, peer: str, inputs: Arrays | None, threads: int) -> None:
    """Build the program, make its first call, report `Started`, then obey until ("stop",).

    ("outputs",) answers the outputs of the last iteration; ("run", k) runs k iterations and answers their seconds.
    The reference gets no inputs: it makes them and answers (inputs, outputs after 1 and 4 iterations, flops) at once.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped worker must not outlive its controller
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        library = importlib.import_module(LIBRARY[peer])
        if LIBRARY[peer] == "torch":
            library.set_num_threads(threads)
        from benchmarks.catalogue import CASES

        if inputs is None or peer == "reference":
            pipe.send(("ok", _reference(CASES[case], inputs)))
            return
        at_import = _memory_peak()
        begin = time.perf_counter()
        program = CASES[case].programs[peer](inputs)
        built = time.perf_counter()
        program.run(1)
        called = time.perf_counter()
        pipe.send(("ok", Started(built - begin, called - built, _memory_peak(), at_import)))
        while (order := pipe.recv())[0] != "stop":
            pipe.send(("ok", program.outputs() if order[0] == "outputs" else _timed(program, order[1])))
    except Exception:
        pipe.send(("error", traceback.format_exc()))


def checked_outputs(outputs: Any, run: Any) -> Arrays:
    """What is compared: all outputs of the first iteration, and of the fourth those that do not drift (training.py)."""
    first = outputs()
    run(3)
    later = outputs()
    return {f"{name}@1": value for name, value in first.items()} | {
        f"{name}@4": value for name, value in later.items() if name != "update"
    }


def _reference(case: Any, replaced: Arrays | None) -> tuple[Arrays, Arrays, float]:
    from torch.utils.flop_counter import FlopCounterMode

    inputs = case.inputs() | (replaced or {})
    program = case.programs["reference"](inputs)
    with FlopCounterMode(display=False) as counter:
        program.run(1)
    return inputs, checked_outputs(program.outputs, program.run), float(counter.get_total_flops())


def _timed(program: Program, iterations: int) -> float:
    program.run(iterations // 10)  # the others' turns left cold caches
    begin = time.perf_counter()
    program.run(iterations)
    return time.perf_counter() - begin


def _memory_peak() -> int:
    """Peak resident bytes; not getrusage's, which a spawned process inherits from its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
