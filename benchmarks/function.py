"""Cases that apply one pure function to fixed inputs, with each peer's own function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Arrays, Case, Floor, Program


def function_case(
    name: str,
    *,
    inputs: Callable[[np.random.Generator], Arrays],
    numpy: Callable[..., Any],
    torch: Callable[..., Any],
    jax: Callable[..., Any],
    dlc: Callable[..., Any],
    floor: Floor,
    tolerance: float = 1e-5,
    bf16: bool = False,
) -> Case:
    """A case whose peers are functions of the inputs, in order; `numpy` computes the reference in float64."""

    def reference_program(arrays: Arrays) -> Program:
        wide = [array.astype(np.float64) for array in arrays.values()]
        return Program(lambda k: None, lambda: {"result": numpy(*wide)})

    def torch_program(arrays: Arrays, compiled: bool = False) -> Program:
        import torch as lib

        args = [lib.from_numpy(array).to(lib.bfloat16 if bf16 else lib.float32) for array in arrays.values()]
        call = lib.compile(torch) if compiled else torch
        result: list[Any] = [None]

        @lib.inference_mode()
        def run(k: int) -> None:
            for _ in range(k):
                result[0] = call(*args)

        return Program(run, lambda: {"result": result[0].float().numpy()})

    def jax_program(arrays: Arrays) -> Program:
        import jax as lib
        import jax.numpy as jnp

        args = [jnp.asarray(array, jnp.bfloat16 if bf16 else jnp.float32) for array in arrays.values()]
        call = lib.jit(jax)
        result: list[Any] = [None]

        def run(k: int) -> None:
            for _ in range(k):
                result[0] = call(*args)
            result[0].block_until_ready()

        return Program(run, lambda: {"result": np.asarray(result[0].astype(jnp.float32))})

    def dlc_program(arrays: Arrays) -> Program:
        import dlc as lib

        args = [lib.asarray(array) for array in arrays.values()]
        if bf16:
            args = [arg.astype(lib.bfloat16).realize() for arg in args]
        call = lib.jit(dlc)
        result: list[Any] = [None]

        def run(k: int) -> None:
            for _ in range(k):
                result[0] = call(*args)
            result[0].realize()

        return Program(run, lambda: {"result": result[0].numpy().astype(np.float32)})

    def rounded_inputs() -> Arrays:
        arrays = inputs(np.random.default_rng(0))
        if bf16:  # The reference must see the numbers that the peers see.
            import ml_dtypes

            arrays = {key: array.astype(ml_dtypes.bfloat16).astype(np.float32) for key, array in arrays.items()}
        return arrays

    return Case(
        name,
        inputs=rounded_inputs,
        programs={
            "reference": reference_program,
            "torch": torch_program,
            "compile": lambda arrays: torch_program(arrays, compiled=True),
            "jax": jax_program,
            "dlc": dlc_program,
        },
        floor=lambda arrays, counted: floor,
        tolerance={"result@1": tolerance, "result@4": tolerance},
    )
