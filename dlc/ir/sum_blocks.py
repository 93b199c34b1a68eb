"""How many terms a sum may have before it is cut into blocks (`passes/long_sums`)."""

from __future__ import annotations

BLOCK = 64  # terms that a register of a reduction collects
PRODUCTS = 256  # and one of a contraction's many, whose loop has little else to do than its multiplications
GPU_PRODUCTS = 512  # the same on a GPU, where the partial sums of a thread take as many registers again,
GPU_WHOLE = 1536  # so that only sums of more terms are cut
FOLDS = 16  # blocks whose partial sums are added plainly


def limit(block: int) -> int:
    """Terms from which a sum is cut: one that is hardly longer than a block is left whole."""
    return block + block // 2
