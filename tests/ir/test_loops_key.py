"""Keys of kernels: equal for the same code under other names, different for anything that changes it."""

import pytest

from dlc.ir.dtypes import float32, float64
from dlc.ir.loops.ir import Alloc, Buffer, For, Kernel, Seq, axis, const, load, loop, op, store
from dlc.ir.loops.key import kernel_key


def scaled(name: str = "k", n: int = 16, by: float = 2.0, dtype=float32, lanes: int = 8, loop_name: str = "i",
           swap: bool = False, schedule: object = None, scratch: str = "s") -> Kernel:
    """y = by * x through scratch memory."""
    x, y = Buffer(f"x of {name}", dtype, (n,), note=name), Buffer(f"y of {name}", dtype, (n,))
    s, i = Buffer(scratch, dtype, (n,), "shared"), axis(loop_name, n)
    value = op("mul", load(x, i), const(by, dtype))
    body = Seq((Alloc(s), loop(i, store(s, (i,), value), "vector", lanes=lanes),
                loop(i, store(y, (i,), load(s, i)), "vector", lanes=lanes)))
    return Kernel(name, (y, x) if swap else (x, y), frozenset((y,)), body, schedule)


def test_names_do_not_count():
    assert kernel_key(scaled()) == kernel_key(scaled("other", scratch="t"))
    assert hash(kernel_key(scaled())) == hash(kernel_key(scaled("other")))


@pytest.mark.parametrize("change", [
    {"n": 32}, {"by": 2.5}, {"by": -0.0}, {"dtype": float64}, {"lanes": 4}, {"swap": True}, {"schedule": "tiles of 4"},
], ids=str)
def test_what_changes_the_code_counts(change):
    base = {"by": 0.0} if change.get("by") == 0 else {}
    assert kernel_key(scaled(**base)) != kernel_key(scaled(**(base | change)))


def test_which_axis_of_equal_ones():
    x, y, i, j = Buffer("x", float32, (16,)), Buffer("y", float32, (16,)), axis("i", 4), axis("i", 4)

    def kernel(outer, inner) -> Kernel:
        nest = For(outer, const(4), For(inner, const(4), store(y, (i * 4 + j,), load(x, j * 4 + i))))
        return Kernel("k", (x, y), frozenset((y,)), nest)

    assert kernel_key(kernel(i, j)) == kernel_key(kernel(i, j)) != kernel_key(kernel(j, i))
