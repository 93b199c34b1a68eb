"""Attention on a GPU: scores live in registers, a tile at a time, and never in memory.

A block holds rows of one side of the scores and streams tiles of the other side's operands through a ring in shared
memory. What it holds is in registers, as matrix instructions take their left operand; so are scores, weights and
results. Three kernels have this form:

    attention               rows are queries; streams k and v      out += weights v, rescaled as the maximum grows
    attention_grad of q     rows are queries; streams k and v      dq += ds k
    attention_grad of k, v  rows are keys; streams q and dout      dv += weights^T dout, dk += ds^T q

The gradients compute the weights again, as exp(x - lse). Exponentials are powers of two of scores that one
multiplication brings to base 2, together with the constant factor that scores usually have.

Of float32 (as TF32) what a block holds is in shared memory, in whose words the instructions take it.

Masks that compare positions (causal ones, windows) say which tiles a block needs at all, and which need no mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from dlc.codegen.lower.body import KernelBody, LoweredKernel, guarded, store_value
from dlc.codegen.lower.gpu.attention_scores import factored, scores_of
from dlc.codegen.lower.gpu.attention_tiles import (
    F32,
    LOG2E,
    ROW,
    ZERO,
    Held,
    SharedTile,
    Side,
    Statistic,
    each,
    f32,
    op,
    up,
)
from dlc.codegen.lower.gpu.map import block_axis, launch
from dlc.ir import dtypes
from dlc.ir.graph.attention import labels_of, sizes_of
from dlc.ir.graph.graph import Node
from dlc.ir.loops import instructions, schedule
from dlc.ir.loops import ir as loops
from dlc.ir.loops.index import both, simplify, unflatten
from dlc.ir.loops.ir import Buffer, Expr, Stmt
from dlc.passes.fuse.access import product_of
from dlc.passes.fuse.attention_unit import DW, DX, SCORE, WEIGHT, Roles
from dlc.passes.fuse.fuse import Fused, Group

# ------------------------------------------------------------------------------------------------------------ masks


# ------------------------------------------------------------------------------------------------------- the kernel


class Streaming:
    """What the three kernels share: where threads and tiles stand, masks, and the ring."""

    def __init__(self, fused: Fused, group: Group, sched: schedule.GpuAttention, keys_held: bool):
        self.body, self.sched, self.group = KernelBody(fused, group), sched, group
        self.unit = group.units[0]
        self.node: Node = self.unit.node
        self.roles = Roles(*self.unit.values)
        self.labels = labels_of(self.node.attrs)
        self.sizes = sizes_of(self.labels, *(i.type for i in self.node.inputs[:3]))
        self.at = dict(zip(self.unit.labels, self.unit.index, strict=True))
        self.half = self.node.inputs[0].dtype  # or float32
        self.tile_row = ROW // self.half.itemsize
        assert sched.shared or self.half.is_half, "float32 is held in shared memory"
        query, key = (Side(x, self.sizes[x], self.at[x]) for x in (self.labels.query, self.labels.key))
        self.held, self.streamed = (key, query) if keys_held else (query, key)
        self.scores = scores_of(self.roles.score, self.held.axis, self.streamed.axis)
        self.scale = self.scores.factor * LOG2E  # of inner, to powers of two

        self.t = loops.axis("t", sched.block)
        row_tiles = -(-self.held.extent // sched.rows)
        self.tiles = -(-self.streamed.extent // sched.columns)
        batch = [self.sizes[x] for x in self.labels.batch]
        self.b = block_axis(product_of(batch) * row_tiles)
        outer, row_tile = unflatten(self.b, (product_of(batch), row_tiles))
        if any(c.column < 0 < c.row for c in self.scores.conditions):
            row_tile = simplify(row_tiles - 1 - row_tile)  # the last rows have most to do: they start first
        self.outer = dict(zip((self.at[x] for x in self.labels.batch), unflatten(outer, batch), strict=True))
        self.row0 = simplify(row_tile * sched.rows)
        number = self.t // sched.lanes if sched.groups > 1 else ZERO
        self.group_row = simplify(number * (sched.lanes // 2))
        self.s = self.sums("s", sched.columns)

    # places

    def row(self, half: Expr) -> Expr:
        """A row of this thread: see Mma."""
        lanes, t = self.sched.lanes, self.t
        within = (t % lanes) // 32 if self.sched.groups > 1 else t // 32
        return simplify(self.row0 + self.group_row + within * 16 + (t % 32) // 4 + half * 8)

    def column(self, j: Expr, c: Expr) -> Expr:
        """A column of this thread in a tile."""
        return simplify(j * 8 + (self.t % 4) * 2 + c)

    def row_inside(self, row: Expr) -> Expr | None:
        return op("lt", row, loops.const(self.held.extent)) if self.held.extent % self.sched.rows else None

    def column_inside(self, column: Expr) -> Expr | None:
        n = self.streamed.extent
        return op("lt", column, loops.const(n)) if n % self.sched.columns else None

    def put(self, value: Expr, where: dict[Expr, Expr], inside: Expr | None = None) -> Expr:
        """An expression of the unit at a place; loads only `inside`."""
        found = self.body.put(self.unit, value, self.outer | where, _no_reader)
        return guarded(found, inside)

    def here(self, value: Expr, row: Expr, column: Expr, held: dict[Expr, Expr]) -> Expr:
        """A pointwise body at a place of the scores; of the conditions it knows that they hold."""
        where = {self.held.axis: row, self.streamed.axis: column} | held
        where |= dict.fromkeys(self.scores.known, loops.const(True, dtypes.bool_))
        return self.put(value, where, both(self.row_inside(row), self.column_inside(column)))

    def sums(self, name: str, columns: int) -> Buffer:
        return Buffer(name, F32, (1, columns // 8, 4), "reg")

    # which tiles

    def range(self) -> tuple[Expr, Expr]:
        """The first tile that this block needs, and how many from there on."""
        size, rows = self.sched.columns, self.sched.rows
        start: Expr = ZERO
        end: Expr = loops.const(self.tiles)
        for c in self.scores.conditions:
            # the most that row * of row can be here
            most = self.row0 + (rows - 1) if c.row > 0 else loops.const(0) - self.row0 if c.row else ZERO
            if c.column < 0:  # column <= row * of row + constant
                last = op("max", simplify(most + (c.constant + size)), ZERO)
                end = op("min", end, last // size)
            elif c.column > 0:  # column >= -(row * of row + constant)
                low = op("max", simplify(loops.const(-c.constant) - most), ZERO)
                start = op("max", start, low // size)
        start = op("min", start, loops.const(self.tiles)) if start is not ZERO else start
        count = end if start is ZERO else op("max", simplify(end - start), ZERO)
        return start, count

    def whole(self, column0: Expr) -> Expr | None:
        """Whether no element of the tile is masked; None if never one is."""
        size, rows = self.sched.columns, self.sched.rows
        out: Expr | None = None
        if self.streamed.extent % size:
            out = op("le", simplify(column0 + size), loops.const(self.streamed.extent))
        for c in self.scores.conditions:
            least = simplify((self.row0 * c.row - (rows - 1 if c.row < 0 else 0))
                             + (column0 * c.column - (size - 1 if c.column < 0 else 0)) + c.constant)
            out = both(out, op("le", ZERO, least))
        return out

    def masked(self, column0: Expr) -> Stmt:
        """Bring the scores into their final form, but for their factor."""
        def element(j: Expr, half: Expr, c: Expr, mask: bool) -> Stmt:
            row, column = self.row(half), simplify(column0 + self.column(j, c))
            r = simplify(half * 2 + c)
            value = loops.load(self.s, ZERO, j, r)
            if not self.scores.raw:
                value = self.here(self.scores.inner, row, column, {SCORE: value})
            inside = self.column_inside(column) if mask else None
            for condition in self.scores.conditions if mask else ():
                inside = both(inside, condition.at(row, column))
            if inside is not None:
                value = op("select", inside, value, f32(-math.inf))
            return loops.store(self.s, (ZERO, j, r), value)

        count = self.sched.columns // 8
        whole = self.whole(column0)
        plain = each(count, lambda j, half, c: element(j, half, c, False)) if not self.scores.raw else loops.Seq(())
        if whole is None:
            return plain
        masked = each(count, lambda j, half, c: element(j, half, c, True))
        return loops.If(whole, plain, masked)

    # the ring

    def hold(self, value: Expr, label: str, name: str) -> Held | SharedTile:
        """An operand of the held side."""
        return SharedTile(self, self.held, value, label, name) if self.sched.shared else Held(self, value, label, name)

    def stream_of(self, value: Expr, label: str, name: str) -> SharedTile:
        """An operand of the streamed side."""
        return SharedTile(self, self.streamed, value, label, name)

    def products(self, out: Buffer, held: Held | SharedTile, tile: SharedTile, stage: Expr) -> Stmt:
        """out = held * tile^T."""
        parts = []
        for k in range(0, tile.padded, self.tile_row):
            a, order = held.left(k)
            b = loops.load(tile.shared, stage, loops.const(k // self.tile_row), ZERO, ZERO)
            wide = min(self.tile_row, tile.padded - k)
            parts.append(self.mma(out, (a, order), (b, "nk"), self.sched.columns, wide, k == 0))
        return loops.seq(*parts)

    def adds(self, out: Buffer, weights: Buffer, tile: SharedTile, stage: Expr) -> Stmt:
        """out += weights * tile."""
        a, b = loops.load(weights, ZERO, ZERO), loops.load(tile.shared, stage, ZERO, ZERO, ZERO)
        return self.mma(out, (a, "sums"), (b, "kn"), tile.padded, self.sched.columns, False)

    def mma(self, out: Buffer, a: tuple[Expr, str], b: tuple[Expr, str], n: int, k: int, fresh: bool) -> Stmt:
        lanes = self.sched.lanes
        return instructions.Mma(out, (ZERO, ZERO, ZERO), a[0], b[0], lanes // 2, n, k, a[1], b[1], lanes, fresh)

    def stream(self, copy: Callable[[Expr, Expr], Stmt], compute: Callable[[Expr, Expr], Stmt]) -> list[Stmt]:
        """The loop over tiles: `copy(first column, stage)` ahead of `compute(first column, stage)`."""
        size, stages = self.sched.columns, self.sched.stages
        ahead = stages - 1
        start, count = self.range()

        def fill(number: Expr, stage: Expr, least: int) -> Stmt:
            if least >= self.tiles:  # there is no such tile
                return instructions.Async(loops.Seq(()))
            make = copy(simplify((start + number) * size), stage)
            return instructions.Async(loops.If(op("lt", number, count), make))

        step = loops.axis("step", self.tiles)
        before = [fill(loops.const(k), loops.const(k), k) for k in range(ahead)]
        main = loops.loop(step, loops.seq(
            instructions.Wait("copy", ahead - 1),
            loops.Sync(),
            fill(simplify(step + ahead), simplify((step + ahead) % stages), ahead),
            compute(simplify((start + step) * size), simplify(step % stages)),
        ), extent=count)
        return [*before, main]

    def finish(self, code: list[Stmt], registers: list[Buffer], operands: list[Held | SharedTile | Statistic],
               products: int) -> LoweredKernel:
        """The kernel; `products` counts the contractions over the scores."""
        shared = [x.shared for x in operands if not isinstance(x, Held)]
        registers = [*(x.buffer for x in operands if isinstance(x, Held)), *registers]
        body = loops.Seq((*(loops.Alloc(x) for x in registers), *code))
        scores = self.held.extent * self.streamed.extent * product_of(self.sizes[x] for x in self.labels.batch)
        if any(c.row and c.column for c in self.scores.conditions):
            scores //= 2
        flops = 2 * products * scores * max(self.sizes[self.labels.inner], self.sizes[self.labels.value])
        lowered = self.body.finish(launch(self.b, self.t, body, shared), self.sched, flops)
        return replace(lowered, kernel=replace(lowered.kernel, blocks_per_sm=self.sched.blocks))

    def item(self, k: int) -> Node | None:
        """The node of result number k, if somebody reads it."""
        return self.body.fused.table.items(self.node).get(k)

    def write(self, k: int, own: str, sums: Buffer, factor: Callable[[Expr], Expr] | None) -> Stmt:
        """Store the rows of a result, the sums, or `factor(half)` times the sums."""
        node = self.item(k)
        if node is None:
            return loops.Seq(())
        (label,) = [x for x in own if x not in self.labels.s]
        width = self.sizes[label]

        def element(j: Expr, half: Expr, c: Expr) -> Stmt:
            row, column = self.row(half), self.column(j, c)
            inside = self.row_inside(row)
            if width % 16:
                inside = both(inside, op("lt", column, loops.const(width)))
            place = self.outer | {self.held.axis: row, self.at[label]: column}
            value = loops.load(sums, ZERO, j, simplify(half * 2 + c))
            if factor is not None:
                value = op("mul", value, factor(half))
            return self.body.store(node, [place.get(self.at[x], ZERO) for x in own], value, inside)

        return each(up(width, 16) // 8, element)


def _no_reader(*_: object) -> Expr:
    raise AssertionError("an attention stands alone")


def lower_attention(fused: Fused, group: Group, sched: schedule.GpuAttention) -> LoweredKernel:
    """One `attention` or `attention_grad`."""
    node = group.units[0].node
    if node.op == "attention":
        return _forward(Streaming(fused, group, sched, False))
    return _backward(Streaming(fused, group, sched, node.attrs["wrt"] == "kv"), node.attrs["wrt"] == "kv")


def _cleared(*buffers: Buffer) -> list[Stmt]:
    return [each(b.shape[1], lambda j, half, c, b=b: loops.store(b, (ZERO, j, simplify(half * 2 + c)), f32(0)))
            for b in buffers]


def _forward(x: Streaming) -> LoweredKernel:
    sched, roles, labels = x.sched, x.roles, x.labels
    count = sched.columns // 8
    held = x.hold(roles.q, labels.inner, "q")
    keys, values = x.stream_of(roles.k, labels.inner, "k_tile"), x.stream_of(roles.v, labels.value, "v_tile")
    out = x.sums("out", values.padded)
    weights = Buffer("weights", x.half, (count, 4), "reg")
    top, before, base, total, shrink = (Buffer(n, F32, (2,), "reg") for n in ("top", "before", "base", "total",
                                                                                "shrink"))
    half = loops.axis("half", 2)

    def rows(*make: Stmt) -> Stmt:
        return loops.loop(half, loops.seq(*make), "unroll")

    def of(buffer: Buffer) -> Expr:
        return loops.load(buffer, half)

    def largest(j: Expr, h: Expr, c: Expr) -> Stmt:
        return loops.store(top, (h,), loops.load(x.s, ZERO, j, simplify(h * 2 + c)), "max")

    def weigh(column0: Expr) -> Stmt:
        def element(j: Expr, h: Expr, c: Expr) -> Stmt:
            r = simplify(h * 2 + c)
            s = loops.load(x.s, ZERO, j, r)
            power = op("exp2", op("fma", s, f32(x.scale), loops.load(base, h)))
            return loops.store(x.s, (ZERO, j, r), power)

        def weight(j: Expr, h: Expr, c: Expr) -> Stmt:
            r = simplify(h * 2 + c)
            e = loops.load(x.s, ZERO, j, r)
            value = x.here(roles.weights, x.row(h), simplify(column0 + x.column(j, c)), {WEIGHT: e})
            return loops.store(weights, (j, r), store_value(value, x.half))

        def add(j: Expr, h: Expr, c: Expr) -> Stmt:
            return loops.store(total, (h,), loops.load(x.s, ZERO, j, simplify(h * 2 + c)), "add")

        return loops.seq(*(each(count, f) for f in (element, add, weight)))

    def compute(column0: Expr, stage: Expr) -> Stmt:
        none = op("eq", of(top), f32(-math.inf))
        safe = op("select", none, f32(0), of(top))
        return loops.seq(
            x.products(x.s, held, keys, stage),
            instructions.Wait("mma", 0),
            x.masked(column0),
            rows(loops.store(before, (half,), of(top))),
            each(count, largest),
            rows(loops.AllReduce(top, (half,), of(top), "max", 4),
                 loops.store(base, (half,), op("mul", safe, f32(-x.scale))),
                 loops.store(shrink, (half,), op("exp2", op("fma", of(before), f32(x.scale), of(base)))),
                 loops.store(total, (half,), op("mul", of(total), of(shrink)))),
            weigh(column0),
            each(out.shape[1], lambda j, h, c: loops.store(out, (ZERO, j, simplify(h * 2 + c)),
                                                           loops.load(shrink, h), "mul")),
            x.adds(out, weights, values, stage),
            instructions.Wait("mma", 0),
        )

    def copy(column0: Expr, stage: Expr) -> Stmt:
        return loops.seq(keys.copy(column0, stage), values.copy(column0, stage))

    # the results: of a row without scores 0 where the weights are 0 there, else NaN
    empty = x.node.attrs["empty"]
    nothing = op("eq", of(total), f32(0))
    inverse = op("div", f32(1), of(total))
    lse = op("add", op("mul", of(top), f32(x.scores.factor)), op("log", of(total)))
    if empty:
        inverse, lse = (op("select", nothing, f32(0), e) for e in (inverse, lse))
    end = [rows(loops.AllReduce(total, (half,), of(total), "add", 4)), rows(loops.store(shrink, (half,), inverse)),
           x.write(0, labels.out, out, lambda h: loops.load(shrink, h))]
    node = x.item(1)
    if node is not None:
        row = x.row(half)
        first = both(op("eq", x.t % 4, ZERO), x.row_inside(row))
        place = x.outer | {x.held.axis: row}
        end.append(rows(x.body.store(node, [place.get(x.at[c], ZERO) for c in labels.row], lse, first)))
    code = [held.load(), *_cleared(out),
            rows(loops.store(top, (half,), f32(-math.inf)), loops.store(total, (half,), f32(0))),
            *x.stream(copy, compute), *end]
    return x.finish(code, [x.s, out, weights, top, before, base, total, shrink], [held, keys, values], 2)


def _backward(x: Streaming, keys_held: bool) -> LoweredKernel:
    sched, roles, labels = x.sched, x.roles, x.labels
    count = sched.columns // 8
    assert roles.dout is not None and roles.lse is not None and roles.delta is not None
    assert roles.score_grad is not None and roles.weights_grad is not None
    inner, value = labels.inner, labels.value
    if keys_held:
        left, right = x.hold(roles.k, inner, "k"), x.hold(roles.v, value, "v")
        tiles = [x.stream_of(roles.q, inner, "q_tile"), x.stream_of(roles.dout, value, "dout_tile")]
        results = [x.sums("dk", tiles[0].padded), x.sums("dv", tiles[1].padded)]
    else:
        left, right = x.hold(roles.q, inner, "q"), x.hold(roles.dout, value, "dout")
        tiles = [x.stream_of(roles.k, inner, "k_tile"), x.stream_of(roles.v, value, "v_tile")]
        results = [x.sums("dq", tiles[0].padded)]
    dw = x.sums("dw", sched.columns)
    weights, ds = (Buffer(n, x.half, (count, 4), "reg") for n in ("weights", "ds"))
    lse, delta = (Statistic(x, v, n) for v, n in ((roles.lse, "lse"), (roles.delta, "delta")))
    own_lse, own_delta = (Buffer(f"row_{n}", F32, (2,), "reg") for n in ("lse", "delta"))
    shift, factor = factored(x.here(roles.score_grad, x.row(ZERO), ZERO, {DX: DX, SCORE: SCORE}))
    constant = shift is DX  # ds is dx times a number, which is left to the end
    factor = factor if constant else 1.0

    def gradients(column0: Expr, stage: Expr) -> Stmt:
        def of(statistic: Statistic, own: Buffer, j: Expr, h: Expr, c: Expr) -> Expr:
            return loops.load(statistic.shared, stage, x.column(j, c)) if keys_held else loops.load(own, h)

        def power(j: Expr, h: Expr, c: Expr) -> Stmt:
            r = simplify(h * 2 + c)
            base = op("mul", of(lse, own_lse, j, h, c), f32(-LOG2E))
            s = op("fma", loops.load(x.s, ZERO, j, r), f32(x.scale), base)
            return loops.store(x.s, (ZERO, j, r), op("exp2", s))

        def slope(j: Expr, h: Expr, c: Expr) -> Stmt:
            r = simplify(h * 2 + c)
            p, d = loops.load(x.s, ZERO, j, r), loops.load(dw, ZERO, j, r)
            row, column = x.row(h), simplify(column0 + x.column(j, c))
            dp = x.here(roles.weights_grad, row, column, {DW: d})  # type: ignore[arg-type]
            dx = op("mul", p, op("sub", dp, of(delta, own_delta, j, h, c)))
            grad = dx if constant else x.here(roles.score_grad, row, column, {DX: dx})  # type: ignore[arg-type]
            return loops.store(ds, (j, r), store_value(grad, x.half))

        def weight(j: Expr, h: Expr, c: Expr) -> Stmt:
            r = simplify(h * 2 + c)
            row, column = x.row(h), simplify(column0 + x.column(j, c))
            value = x.here(roles.weights, row, column, {WEIGHT: loops.load(x.s, ZERO, j, r)})
            return loops.store(weights, (j, r), store_value(value, x.half))

        return loops.seq(*(each(count, f) for f in ((power, weight, slope) if keys_held else (power, slope))))

    def compute(column0: Expr, stage: Expr) -> Stmt:
        parts = [x.products(x.s, left, tiles[0], stage), x.products(dw, right, tiles[1], stage),
                 instructions.Wait("mma", 0), x.masked(column0), gradients(column0, stage)]
        if keys_held:
            parts.append(x.adds(results[1], weights, tiles[1], stage))
        parts += [x.adds(results[0], ds, tiles[0], stage), instructions.Wait("mma", 0)]
        return loops.seq(*parts)

    def copy(column0: Expr, stage: Expr) -> Stmt:
        return loops.seq(*(t.copy(column0, stage) for t in (*tiles, *[lse, delta] * keys_held)))

    code = [left.load(), right.load(), *_cleared(*results)]
    if not keys_held:
        half = loops.axis("half", 2)
        row = x.row(half)
        own = [loops.store(b, (half,), x.put(v, {x.held.axis: row}, x.row_inside(row)))
               for b, v in ((own_lse, roles.lse), (own_delta, roles.delta))]
        code.append(loops.loop(half, loops.seq(*own), "unroll"))
    code += x.stream(copy, compute)
    owns = (labels.k, labels.v) if keys_held else (labels.q,)
    for k, (own, sums, f) in enumerate(zip(owns, results, (factor, 1.0), strict=False)):
        code.append(x.write(k, own, sums, None if f == 1.0 else lambda h, f=f: f32(f)))
    if keys_held:
        return x.finish(code, [x.s, dw, *results, ds, weights], [left, right, *tiles, lse, delta], 4)
    return x.finish(code, [x.s, dw, *results, ds, own_lse, own_delta], [left, right, *tiles], 3)
