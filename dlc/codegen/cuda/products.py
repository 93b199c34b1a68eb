"""Statements around the tensor cores: products of tiles, and waiting for them.

How an operand lies (`Mma.a_order`, `Mma.b_order`): a shared tile along k ("mk", "nk") or along the rows or columns of
the product ("km", "kn"), or registers that hold a tile as sums are held ("sums").
"""

from __future__ import annotations

from dlc.codegen.cuda.expr import Expressions
from dlc.codegen.cuda.types import ctype
from dlc.codegen.cuda.writer import Writer
from dlc.ir.dtypes import float32
from dlc.ir.loops.index import simplify
from dlc.ir.loops.instructions import Mma, Wait
from dlc.ir.loops.ir import Buffer, Expr, Kernel, load_parts
from dlc.ir.loops.traverse import exprs, walk


class Products:
    """Writes Mma and Wait."""

    def __init__(self, writer: Writer, expressions: Expressions, kernel: Kernel) -> None:
        self.w, self.x = writer, expressions
        self.bare, self.subscripts = expressions.bare, expressions.subscripts
        products = [s for s in walk(kernel.body) if isinstance(s, Mma)]
        self.any = bool(products)
        self.in_flight: dict[Buffer, None] = {}  # sums that an Mma may still be adding to
        self._warpgroups = any(s.lanes == 128 for s in products)

    def wait(self, s: Wait) -> None:
        if s.what == "copy":
            self.w.line(f"wait_copies<{s.pending}>();")
            if self._warpgroups:
                self.w.line("fence_shared();")
        elif self._warpgroups:
            self.w.line(f"wgmma_wait<{s.pending}>();")
            if not s.pending:
                for b in self.in_flight:
                    self.w.line("#pragma unroll")
                    self.w.line(f"for (int i = 0; i < {b.shape[0]}; ++i) hold_sums({self.w.names[b]}[i]);")
                self.in_flight = {}

    def multiply(self, s: Mma) -> None:
        """Products of shared tiles by the tensor cores."""
        self.x.count(exprs(s))
        sums = self.w.names[s.buffer] + self.subscripts(s.index[:-2])
        self.in_flight[s.buffer] = None
        tf32 = s.a.dtype is float32
        if s.fresh and (tf32 or s.lanes == 32):
            self.w.line("#pragma unroll")
            self.w.line(f"for (int k = 0; k < {s.n // 2}; ++k) {sums}[k / 4][k % 4] = 0.0f;")
        if tf32 and s.a_order == "sums":
            self._tf32_held(s, sums)
        elif tf32:
            self._tf32(s)
        elif s.lanes == 32:
            self._warp(s, sums)
        else:
            self._warpgroup(s, sums)
        self.x.forget((s.buffer,))

    def _tf32_held(self, s: Mma, sums: str) -> None:
        b, index, _ = load_parts(s.b)
        tile = self.subscripts(index[:-3]) + "[0][0][0]"
        first = simplify(index[-3] * b.shape[-1] + index[-1])
        self.w.line(f"mma_tf32_held<{s.n}, {s.k}>({sums}, {self._held(s.a)}, &{self.w.names[b]}{tile}, "
                    f"{self.bare(first)}, {b.shape[-2] * b.shape[-1]});")

    def _tf32(self, s: Mma) -> None:
        operands = ", ".join(self._rounded_tile(e, order) for e, order in ((s.a, s.a_order), (s.b, s.b_order)))
        sums = self.w.names[s.buffer] + self.subscripts(s.index[:-3])
        along = ", ".join(str(order[1] == "k").lower() for order in (s.a_order, s.b_order))
        self.w.line(f"mma_tf32<{s.m}, {s.n}, {s.k}, {along}>({sums}, {operands});")

    def _warp(self, s: Mma, sums: str) -> None:
        operands, along = [], []
        for e, order in ((s.a, s.a_order), (s.b, s.b_order)):
            b, index, _ = load_parts(e)
            if order == "sums":
                operands.append(self._held(e))
                continue
            along.append("true" if order[1] == "k" else "false")
            own = 2 if order[1] == "k" else 3  # the tile's indices; others say which tile
            tile = self.subscripts(index[:-own]) + "[0]" * own
            first = index[-2] if order[1] == "k" else index[-3] * 64 + index[-1]
            block = 0 if order[1] == "k" else b.shape[-2] * 64
            operands.append(f"&{self.w.names[b]}{tile}, {self.bare(simplify(first))}, {block}")
        name = "mma_held_16" if s.a_order == "sums" else "mma_16"
        self.w.line(f"{name}<{s.n}, {s.k}, {', '.join(along)}>({sums}, {', '.join(operands)});")

    def _warpgroup(self, s: Mma, sums: str) -> None:
        self.w.open("")
        for name, e, order in (("a", s.a, s.a_order), ("b", s.b, s.b_order)):
            b, index, _ = load_parts(e)
            if order == "sums":
                continue
            leading = 16 if order[1] == "k" else b.shape[-2] * 128
            self.w.line(f"const unsigned long long at_{name} = tile_at(&{self.x.place(b, index)}, {leading});")
        self.w.line("wgmma_fence();")
        self.w.line("#pragma unroll")
        steps = [2 if order[1] == "k" else 128 for order in (s.a_order, s.b_order)]  # in units of 16 bytes
        self.w.line(f"for (int k = 0; k < {s.k // 16}; ++k)")
        add = ", k > 0" if s.fresh else ""
        b = f"at_b + k * {steps[1]}"
        turned = [int(order[1] != "k") for order in (s.a_order, s.b_order)]
        if s.a_order == "sums":
            self.w.line(f"    wgmma_held_64x{s.n}<{turned[1]}>({sums}, {self._held(s.a)} + 2 * k, {b}{add});")
        else:
            self.w.line(f"    wgmma_64x{s.n}<{turned[0]}, {turned[1]}>({sums}, at_a + k * {steps[0]}, {b}, "
                        f"{ctype(s.a.dtype)}(){add});")
        self.w.line("wgmma_commit();")
        self.w.close()

    def _rounded_tile(self, e: Expr, order: str) -> str:
        """A shared tile of float32: its first element, the first row of the product, the length of its rows."""
        b, index, _ = load_parts(e)
        tile = self.subscripts(index[:-2]) + "[0][0]"
        first = index[-2] if order[1] == "k" else index[-1]
        return f"&{self.w.names[b]}{tile}, {self.bare(simplify(first))}, {b.shape[-1]}"

    def _held(self, e: Expr) -> str:
        """A pointer to a tile in registers."""
        b, index, _ = load_parts(e)
        return f"{self.w.names[b]}{self.subscripts(index[:-2])} + {self.bare(index[-2])}"
