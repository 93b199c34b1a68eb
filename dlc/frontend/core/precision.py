"""How exactly float32 matrix products are computed: `dlc.set_float32_matmul_precision`."""

from __future__ import annotations

from dlc.frontend.core.location import here

PRECISIONS = ("highest", "high")


class _Setting:
    """The program's, for all threads."""

    tf32 = False


setting = _Setting()


def set_float32_matmul_precision(precision: str) -> None:
    """How exactly contractions of float32 (matrix products, convolutions, attention) are computed from now on.

    "highest", the default: in float32. "high": where a GPU's matrix unit is faster, it multiplies numbers rounded to 11
    significant bits (TF32) and adds in float32. As in PyTorch; there is no "medium", which is `dlc.autocast`. Compiled
    functions are traced again when it changes. Raises ValueError.
    """
    if precision not in PRECISIONS:
        known = " or ".join(map(repr, PRECISIONS))
        raise ValueError(f"set_float32_matmul_precision: the precision is {known}, not {precision!r}\n  at {here()}")
    setting.tf32 = precision == "high"


def get_float32_matmul_precision() -> str:
    """"highest" or "high": see `set_float32_matmul_precision`."""
    return PRECISIONS[setting.tf32]
