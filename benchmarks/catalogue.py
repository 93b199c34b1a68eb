"""All cases, by name, in the order of the anchors table."""

from __future__ import annotations

from benchmarks import gemm, gpt, kernels, lstm, mlp, resnet, unet
from benchmarks.case import Case

CASES: dict[str, Case] = {
    case.name: case for family in (kernels, gemm, mlp, resnet, lstm, gpt, unet) for case in family.CASES
}
