"""AMX without AMX: the instructions' meaning as functions, which a kernel compiled for this machine calls instead.

`emulated(text)` puts calls of functions in the place of the intrinsics in LLVM IR; `symbols()` are these functions.
Each thread has tile registers of its own; what the instructions do not allow is remembered.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections import defaultdict

import numpy as np

from dlc.ir.loops.interp.values import dot2

_P, _I, _B = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int8


def emulated(text: str) -> str:
    """LLVM IR with functions called amx_* in the place of the intrinsics."""
    return re.sub(r"@llvm\.x86\.(ldtilecfg|tile\w+|tdpbf16ps)\b", r"@amx_\1", text)


class Unit:
    """Eight tile registers a thread."""

    def __init__(self) -> None:
        self._shapes: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
        self._tiles: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
        self.wrong: list[str] = []
        self.count = dict.fromkeys(("ldtilecfg", "tilerelease", "tilezero", "tileloadd64", "tilestored64",
                                    "tdpbf16ps"), 0)

    @property
    def shapes(self) -> dict[int, tuple[int, int]]:
        """Rows and words of this thread's registers."""
        return self._shapes[threading.get_native_id()]

    @property
    def tiles(self) -> dict[int, np.ndarray]:
        """What they hold."""
        return self._tiles[threading.get_native_id()]

    def ldtilecfg(self, p: int) -> None:
        layout = ctypes.string_at(p, 64)
        assert layout[0] == 1
        assert not any(layout[1:16]) and not any(layout[32:48]) and not any(layout[56:])
        self.tilerelease()
        for r in range(8):
            wide, rows = int.from_bytes(layout[16 + 2 * r : 18 + 2 * r], "little"), layout[48 + r]
            assert wide <= 64 and wide % 4 == 0 and rows <= 16 and (wide == 0) == (rows == 0), (r, wide, rows)
            if rows:
                self.shapes[r] = rows, wide // 4
                self.tilezero(r)

    def tilerelease(self) -> None:
        self.shapes.clear()
        self.tiles.clear()

    def tilezero(self, r: int) -> None:
        self.tiles[r] = np.zeros(self.shapes[r], np.uint32)

    def tileloadd64(self, r: int, p: int, stride: int) -> None:
        rows, words = self.shapes[r]
        rest = [np.frombuffer(ctypes.string_at(p + i * stride, 4 * words), np.uint32) for i in range(rows)]
        self.tiles[r] = np.array(rest)

    def tilestored64(self, r: int, p: int, stride: int) -> None:
        for i, row in enumerate(self.tiles[r]):
            ctypes.memmove(p + i * stride, row.tobytes(), row.nbytes)

    def tdpbf16ps(self, c: int, a: int, b: int) -> None:
        (m, n), (rows, k), (depth, columns) = self.shapes[c], self.shapes[a], self.shapes[b]
        assert (m, n, k) == (rows, columns, depth), "the tiles do not fit"
        sums = self.tiles[c].view(np.float32)
        for p in range(k):
            sums = dot2(self.tiles[a][:, p : p + 1], self.tiles[b][p : p + 1], sums)
        self.tiles[c] = np.ascontiguousarray(sums, np.float32).view(np.uint32)

    def function(self, name: str, *types):
        """One instruction as a C function; what is wrong is remembered, since a callback cannot raise."""
        def call(*args) -> None:
            self.count[name] += 1
            try:
                getattr(self, name)(*args)
            except Exception as error:  # noqa: BLE001
                self.wrong.append(f"{name}{args}: {error!r}")

        return ctypes.CFUNCTYPE(None, *types)(call)

    def symbols(self) -> dict[str, int]:
        """The functions by their names; the unit must outlive them."""
        self.functions = {
            "ldtilecfg": self.function("ldtilecfg", _P), "tilerelease": self.function("tilerelease"),
            "tilezero": self.function("tilezero", _B), "tileloadd64": self.function("tileloadd64", _B, _P, _I),
            "tilestored64": self.function("tilestored64", _B, _P, _I),
            "tdpbf16ps": self.function("tdpbf16ps", _B, _B, _B),
        }
        return {f"amx_{name}": ctypes.cast(f, _P).value for name, f in self.functions.items()}
