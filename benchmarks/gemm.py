"""Square matrix products."""

from __future__ import annotations

import operator

from benchmarks.case import Case, Floor
from benchmarks.function import function_case
from benchmarks.kernels import normal


def gemm(n: int, bf16: bool = False) -> Case:
    """The product of two n x n matrices."""
    return function_case(
        f"gemm_{n}" + ("_bf16" if bf16 else ""),
        inputs=normal((n, n), (n, n)),
        numpy=operator.matmul,
        torch=lambda a, b: a @ b,
        jax=lambda a, b: a @ b,
        dlc=lambda a, b: a @ b,
        floor=Floor(2.0 * n**3, 3 * n * n * (2 if bf16 else 4)),
        tolerance=5e-3 if bf16 else 1e-5,
        bf16=bf16,
    )


CASES = [gemm(512), gemm(1024), gemm(2048), gemm(1024, bf16=True)]
