"""Arguments of random cases, as NumPy expressions over the generator `r`."""

from __future__ import annotations

from collections.abc import Sequence

from tests.sweeps.draw import Draw

FLOATS = ("float32", "float32", "float32", "float64", "bfloat16", "float16")
INDICES = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")
INTEGERS = ("int32", "int64", "int8", "int16", "uint8", "uint16", "uint32", "uint64")


def float_type(d: Draw) -> str:
    """The name of a float type, float32 half of the time."""
    return d.one_of(FLOATS)


def cast(text: str, dtype: str) -> str:
    """An expression's values as this type."""
    return f"{text}.astype({'ml_dtypes.bfloat16' if dtype == 'bfloat16' else repr(dtype)})"


def numbers(d: Draw, shape: Sequence[int], dtype: str) -> str:
    """Normal values, or small whole numbers, whose sums are exact in any order."""
    return cast(f"r.integers(-2, 3, {tuple(shape)})" if d.chance(50) else f"r.standard_normal({tuple(shape)})", dtype)


def normal(shape: Sequence[int], dtype: str, scale: float = 1) -> str:
    """Normal values."""
    factor = "" if scale == 1 else f"{scale} * "
    text = f"{factor}r.standard_normal({tuple(shape)})"
    return cast(f"({text})" if factor else text, dtype)


def distinct(shape: Sequence[int], dtype: str) -> str:
    """All different, half of them negative: whole numbers in random order."""
    size = 1
    for extent in shape:
        size *= extent
    return cast(f"(r.permutation({size}) - {size // 2}).reshape({tuple(shape)})", dtype)


def whole(shape: Sequence[int], dtype: str, low: int, high: int) -> str:
    """Whole numbers from `low` to below `high`."""
    return f"r.integers({low}, {high}, {tuple(shape)}).astype({dtype!r})"


def size(shape: Sequence[int]) -> int:
    """The number of elements."""
    out = 1
    for extent in shape:
        out *= extent
    return out


def shape_of(d: Draw, ndim: int, most: int, high: int = 300) -> tuple[int, ...]:
    """Extents with at most about `most` elements in all, the large one anywhere."""
    out: list[int] = []
    left = most
    for _ in range(ndim):
        out.append(d.extent(max(1, min(high, left))))
        left = max(1, left // out[-1])
    return tuple(d.shuffled(out))


def autocast(d: Draw, dtype: str, body: str) -> tuple[str, str]:
    """Now and then, the body under autocast and the type it then computes in."""
    if dtype != "float32" or not d.chance(10):
        return body, dtype
    half = d.one_of(("bfloat16", "float16"))
    lines = "\n".join("    " + line for line in body.splitlines())
    return f"with dlc.autocast(dlc.{half}):\n{lines}", half
