"""NumPy arrays of every layout come in right, wherever dlc takes arrays; what it cannot take is a clear error."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import dlc

DTYPES = [np.dtype(name) for name in (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    ml_dtypes.bfloat16,
)]  # fmt: skip


class Sub(np.ndarray):
    """A subclass that gives wrong answers where its own methods are used."""

    def __add__(self, other):
        raise AssertionError("the subclass computed")

    __radd__ = __add__


def unaligned(a: np.ndarray, order: str = "C") -> np.ndarray:
    memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
    out = np.ndarray(a.shape, a.dtype, memory, order=order)
    out[...] = a
    return out


def strided(a: np.ndarray) -> np.ndarray:
    out = np.zeros((a.shape[0] * 2, a.shape[1] * 3), a.dtype)
    out[::2, ::3] = a
    return out[::2, ::3]


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def mapped(a: np.ndarray, tmp_path) -> np.ndarray:
    out = np.memmap(tmp_path / "array", a.dtype, "w+", 5, a.shape)  # an offset that aligns nothing
    out[...] = a
    return out


def swapped(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder("S"))


LAYOUTS = {
    "contiguous": lambda a, _: a,
    "fortran": lambda a, _: np.asfortranarray(a),
    "transposed": lambda a, _: np.ascontiguousarray(a.T).T,
    "backwards": lambda a, _: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
    "strided": lambda a, _: strided(a),
    "one row for all": lambda a, _: np.broadcast_to(a[1], a.shape),
    "one element for all": lambda a, _: np.broadcast_to(a[1, 1], a.shape),
    "read-only": lambda a, _: read_only(a),
    "unaligned": lambda a, _: unaligned(a),
    "unaligned fortran": lambda a, _: unaligned(a, "F"),
    "unaligned backwards": lambda a, _: unaligned(np.ascontiguousarray(a[::-1]))[::-1],
    "other byte order": lambda a, _: swapped(a),
    "unaligned other byte order": lambda a, _: unaligned(swapped(a)),
    "field of a record": lambda a, _: np.rec.fromarrays([np.ones(a.shape, "i1"), a])["f1"],
    "subclass": lambda a, _: a.view(Sub),
    "matrix": lambda a, _: a.view(np.matrix),
    "masked": lambda a, _: np.ma.masked_array(a, np.ones(a.shape)),
    "mapped": mapped,
    "number": lambda a, _: np.array(a[1, 1]),
    "unaligned number": lambda a, _: unaligned(np.array(a[1, 1])),
    "empty": lambda a, _: a[:0],
    "unaligned empty": lambda a, _: unaligned(a)[:, :0],
}


def values(dtype: np.dtype) -> np.ndarray:
    return (np.arange(24).reshape(4, 6) * 5 % 7).astype(dtype)


def plain(a: np.ndarray) -> np.ndarray:
    """The same values as an array of its own, of native byte order."""
    return np.array(a, a.dtype.newbyteorder("="), order="C", subok=False)


def assigned(a):
    x = dlc.zeros(a.shape, dtype=plain(a).dtype)
    return x.assign(a)


def set_item(a):
    x = dlc.zeros(a.shape, dtype=plain(a).dtype)
    x[...] = a
    return x


def closed_over(a):
    x = dlc.zeros(a.shape, dtype=plain(a).dtype)
    return dlc.jit(lambda x: dlc.where(x == x, a, x))(x)


WAYS = {
    "asarray": dlc.asarray,
    "tensor": dlc.tensor,
    "Tensor": dlc.Tensor,
    "operand": lambda a: dlc.where(dlc.asarray(True), a, a),
    "concat": lambda a: dlc.stack([a, a])[0],
    "assign": assigned,
    "set item": set_item,
    "argument of jit": lambda a: dlc.jit(lambda x: x)(a),
    "computed argument of jit": lambda a: dlc.jit(lambda x: dlc.where(x == x, x, x))(a),
    "in a tree": lambda a: dlc.jit(lambda tree: tree["k"][0])({"k": [a]}),
    "closed over": closed_over,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", WAYS)
def test_layouts(way, layout, tmp_path):
    for dtype in DTYPES if way in ("asarray", "closed over") else DTYPES[::4]:
        a = LAYOUTS[layout](values(dtype), tmp_path)
        want = plain(a)
        found = WAYS[way](a).numpy()
        assert found.dtype == want.dtype and found.shape == want.shape, dtype
        np.testing.assert_array_equal(found, want, err_msg=str(dtype))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "number" not in name and name != "matrix"])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64"], ids=str)
def test_layouts_of_an_index(layout, dtype, tmp_path):
    dtype = np.dtype(dtype)
    data = np.arange(7 * 3).reshape(7, 3).astype(np.float32)
    shape = (4, 6)
    index = LAYOUTS[layout](values(dtype) if dtype.kind != "b" else values(np.dtype(np.int8)) % 2 == 0, tmp_path)
    if dtype.kind == "b":
        data = np.arange(24).reshape(shape).astype(np.float32)[: index.shape[0], : index.shape[1]]
    x, want = dlc.asarray(data), data[plain(index)]
    np.testing.assert_array_equal(x[index].numpy(), want)
    if dtype.kind != "b":
        np.testing.assert_array_equal(dlc.jit(lambda x: x[index])(x).numpy(), want)
        np.testing.assert_array_equal(dlc.jit(lambda x, i: x[i])(x, index).numpy(), want)
        np.testing.assert_array_equal(dlc.take(x, index, axis=0).numpy(), want)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "number" not in name])
def test_layouts_through_dlpack(layout, tmp_path):
    """NumPy exports native, aligned arrays; what it refuses is an error, never other values."""
    for dtype in DTYPES:
        a = LAYOUTS[layout](values(dtype), tmp_path)
        try:
            found = dlc.from_dlpack(a)
        except (dlc.DlcError, BufferError, TypeError, ValueError) as error:
            assert str(error)
            assert layout not in ("contiguous", "fortran", "strided", "backwards") or dtype == ml_dtypes.bfloat16, error
        else:
            np.testing.assert_array_equal(found.numpy(), plain(a))


STRANGE = {
    "objects": np.array([1, "a", None], object),
    "numbers as objects": np.array([1, 2], object),
    "records": np.zeros(3, [("a", "f4"), ("b", "i8")]),
    "text": np.array(["a", "bc"]),
    "bytes": np.array([b"a", b"bc"]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "complex": np.ones(3, np.complex64),
    "void": np.zeros(3, "V5"),
}


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("way", [w for w in WAYS if w not in ("assign", "set item", "closed over", "concat")])
def test_what_is_no_tensor_is_an_error(way, what):
    with pytest.raises(dlc.DTypeError) as caught:
        WAYS[way](STRANGE[what])
    assert str(STRANGE[what].dtype) in str(caught.value) or "dtype" in str(caught.value), caught.value


@pytest.mark.parametrize("what", STRANGE)
def test_what_is_no_tensor_is_an_error_where_it_is_closed_over(what):
    a = STRANGE[what]
    with pytest.raises(dlc.DlcError):
        dlc.jit(lambda x: x + a)(dlc.ones(3))


def test_a_closed_over_array_is_read_again():
    a = unaligned(np.arange(20, dtype=np.float32))
    f = dlc.jit(lambda x: x + a)
    f(dlc.zeros(20))
    f(dlc.zeros(20))
    traces = f.traces
    a += 1
    np.testing.assert_array_equal(f(dlc.zeros(20)).numpy(), a)
    assert f.traces == traces
