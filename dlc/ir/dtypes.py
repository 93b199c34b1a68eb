"""Element types: one table, their NumPy counterparts, and the promotion lattice of the array API standard."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from dlc.base.errors import DTypeError
from dlc.base.lazy import cached_property


@dataclass(frozen=True, eq=False)
class DType:
    """One element type. `name` is the public name, `short` the one used in IR text (f32, i64, bool)."""

    name: str
    short: str
    kind: str  # 'b' bool, 'i' signed, 'u' unsigned, 'f' float
    bits: int  # bits of the value; a bool is stored in a byte
    np: np.dtype

    @cached_property
    def itemsize(self) -> int:
        return max(self.bits, 8) // 8

    @cached_property
    def is_float(self) -> bool:
        return self.kind == "f"

    @cached_property
    def is_int(self) -> bool:
        return self.kind in "iu"

    @cached_property
    def is_bool(self) -> bool:
        return self.kind == "b"

    @cached_property
    def is_half(self) -> bool:
        """Two-byte floats, which are stored as they are and computed in float32."""
        return self.kind == "f" and self.bits == 16

    @cached_property
    def compute(self) -> DType:
        """The type in which a kernel does arithmetic on values of this type."""
        return float32 if self.is_half else self

    def __repr__(self) -> str:
        return f"dlc.{self.name}"

    def __reduce__(self):
        return (by_name, (self.name,))


def _make(name: str, short: str, kind: str, bits: int, np_type) -> DType:
    return DType(name, short, kind, bits, np.dtype(np_type))


bool_ = _make("bool", "bool", "b", 1, np.bool_)
int8 = _make("int8", "i8", "i", 8, np.int8)
int16 = _make("int16", "i16", "i", 16, np.int16)
int32 = _make("int32", "i32", "i", 32, np.int32)
int64 = _make("int64", "i64", "i", 64, np.int64)
uint8 = _make("uint8", "u8", "u", 8, np.uint8)
uint16 = _make("uint16", "u16", "u", 16, np.uint16)
uint32 = _make("uint32", "u32", "u", 32, np.uint32)
uint64 = _make("uint64", "u64", "u", 64, np.uint64)
float16 = _make("float16", "f16", "f", 16, np.float16)
bfloat16 = _make("bfloat16", "bf16", "f", 16, ml_dtypes.bfloat16)
float32 = _make("float32", "f32", "f", 32, np.float32)
float64 = _make("float64", "f64", "f", 64, np.float64)

ALL = (bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, float32, float64)
_BY_NAME = {d.name: d for d in ALL} | {d.short: d for d in ALL}
_BY_NP = {d.np: d for d in ALL}


def by_name(name: str) -> DType:
    """The dtype called `name` (public or short). Raises KeyError for an unknown name."""
    return _BY_NAME[name]


def from_numpy(dtype) -> DType:
    """The dlc dtype of a NumPy dtype. Raises DTypeError for one that dlc has no counterpart of."""
    try:
        return _BY_NP[np.dtype(dtype).newbyteorder("=")]
    except KeyError:
        raise DTypeError(f"dlc has no dtype for NumPy's {np.dtype(dtype)}") from None


def _promote(a: DType, b: DType) -> DType:
    if a is b:
        return a
    if a.is_bool:
        return b
    if b.is_bool:
        return a
    if a.is_float != b.is_float:
        return a if a.is_float else b
    if a.is_float:
        if a.bits == b.bits:  # float16 with bfloat16
            return float32
        return a if a.bits > b.bits else b
    if a.kind == b.kind:
        return a if a.bits > b.bits else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    return _BY_NAME[f"int{min(unsigned.bits * 2, 64)}"]


_PROMOTION = {(a, b): _promote(a, b) for a in ALL for b in ALL}


def promote(*dtypes: DType) -> DType:
    """The common type of `dtypes`: the array API's lattice, extended by int+float -> that float type."""
    out = dtypes[0]
    for d in dtypes[1:]:
        out = _PROMOTION[out, d]
    return out


def limits(dtype: DType) -> tuple:
    """(lowest, highest) finite value of `dtype` as Python numbers."""
    if dtype.is_bool:
        return False, True
    if dtype.is_int:
        info = np.iinfo(dtype.np)
        return int(info.min), int(info.max)
    info = ml_dtypes.finfo(dtype.np)
    return float(info.min), float(info.max)


def convert(x: np.ndarray, dtype: DType, store: np.dtype | None = None) -> np.ndarray:
    """`cast`: float to int truncates and saturates with NaN -> 0, to bool is `!= 0`, int to int wraps."""
    store = dtype.np if store is None else store
    is_float = x.dtype.kind not in "biu"
    if dtype.is_bool:
        return np.asarray((x.astype(np.float32) if is_float and x.dtype.itemsize == 2 else x) != 0)
    if dtype.is_int and is_float:
        whole = np.trunc(x.astype(np.float64))
        low, high = limits(dtype)
        inside = (whole > float(low)) & (whole < float(high))  # float(2**63 - 1) rounds up, hence the strict test
        out = np.where(inside, whole, 0).astype(dtype.np)
        out = np.where(whole >= float(high), np.array(high, dtype.np), out)
        return np.where(whole <= float(low), np.array(low, dtype.np), out)
    return x.astype(store)
