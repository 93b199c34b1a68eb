"""Contractions by matrix instructions whose tiles are copied in bulk by a thread of their own (`GpuMma.bulk`).

The threads of a block have roles: groups of 128 multiply, and one further thread keeps a ring of tiles full, as far
ahead as the ring is long. Where sums fill the registers it stands in a group of 128 that leaves most of its own to the
others (`Registers`), which a single warp could not. Two gates a stage say that its tiles are there and that they are no
longer needed, so neither side waits for more than it must. With `persistent` blocks the ring runs on into a block's
next tile while the results of the last one are written.

A tile is a box of a tensor in memory: one label contiguous, 64 elements of it a row of the tile; the labels across
walk whole extents, or parts of one. Labels that move by the same stride (a window's position and its tap) are one axis
of that tensor. What cannot be read so stays with `lower_gpu_mma`'s own copies.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlc.codegen.lower.body import split_axis
from dlc.codegen.lower.gpu.contract import GpuTile, stride_one, tile_origin
from dlc.codegen.lower.gpu.map import launch
from dlc.ir.dtypes import int64
from dlc.ir.loops import instructions, schedule
from dlc.ir.loops import ir as loops
from dlc.ir.loops.index import linear, simplify
from dlc.ir.loops.instructions import View
from dlc.ir.loops.ir import Buffer, Expr, Stmt, under_casts

ROW = 64  # elements of a row of a shared tile
RANK = 5  # axes of a tensor that can be copied from
ALIGNED = 8  # elements of 16 bytes
REGISTERS = 512  # of a multiprocessor, in units of a group's 128 threads
TO_COPY = 40  # registers of a thread that copies

_ZERO = loops.const(0)


@dataclass
class Axis:
    """An axis of the tensor: the labels that move along it, those in `back` from its end to its start."""

    stride: int
    box: int
    labels: list[str]
    back: list[str]


class BulkPanel:
    """One operand's tiles: [stage, row, inner] or [stage, row / 64, inner, row % 64], each a box or a few."""

    def __init__(self, tile: GpuTile, value: Expr, labels: str, width: int, name: str):
        self.tile, self.labels, self.width = tile, labels, width
        sched: schedule.GpuMma = tile.sched  # type: ignore[assignment]
        self.bk = sched.bk
        inner = tile.parts.inner
        self.along_k = stride_one(tile, value, inner) or not stride_one(tile, value, labels)
        self.fast, self.slow = (inner, labels) if self.along_k else (labels, inner)
        shape = (width, ROW) if self.along_k else (width // ROW, self.bk, ROW)
        self.shared = Buffer(name, tile.unit.node.inputs[0].dtype, (sched.stages, *shape), "shared", swizzled=True)
        self.axes: list[Axis] = []
        self.possible = width % ROW == 0 and self.bk == ROW and width <= 256 and self._axes(value)

    def _axes(self, value: Expr) -> bool:
        """Find the tensor's axes; False where there is none that fits."""
        tile = self.tile
        value = under_casts(value)
        if value.op != "load" or len(value.args) > 1 or value.attr.dtype is not self.shared.dtype:
            return False
        terms, constant = linear(simplify(value.args[0]))
        of = {a: x for x, a in tile.at.items() if a.op == "axis"}
        if not all(atom in of for atom in terms):
            return False
        stride = {of[atom]: k for atom, k in terms.items()}
        boxes = self._boxes(stride)
        if boxes is None:
            return False
        axes = [Axis(stride[x], n, [x], []) for x, n in boxes.items()]
        for x, k in stride.items():
            if x in boxes:
                continue
            same = next((a for a in axes if a.stride == abs(k)), None)
            if same is None:
                same = Axis(abs(k), 1, [], [])
                axes.insert(0, same)
            (same.labels if k > 0 else same.back).append(x)
            constant += min(k, 0) * (self.extent(x) - 1)
        falling = sorted(axes, key=lambda a: -a.stride)
        if [a for a in falling if a.box > 1] == [a for a in axes if a.box > 1]:
            axes = falling
        self.axes, self.start = axes, constant
        tail = self.fast[-1] if self.along_k else self.slow[0]  # where an inner range that is no whole steps ends
        alone = all(len(a.labels) + len(a.back) == 1 for a in axes if tail in a.labels + a.back)
        return (len(axes) <= RANK and constant >= 0 and constant % ALIGNED == 0
                and all(a.stride % ALIGNED == 0 for a in axes[:-1]) and (alone or tile.k % self.bk == 0))

    def _boxes(self, stride: dict[str, int]) -> dict[str, int] | None:
        """How much of each label that varies in a tile is in a box, outer labels first."""
        if not self.fast or not self.slow or stride.get(self.fast[-1]) != 1:
            return None
        if len(self.fast) > 1 and self.extent(self.fast[-1]) % ROW:
            return None
        found = {self.fast[-1]: ROW}
        rest = self.width if self.along_k else self.bk
        for x in reversed(self.slow):
            if rest == 1:
                break
            n = self.extent(x)
            if x == self.slow[0] or n % rest == 0:
                part = rest
            elif rest % n == 0:
                part = n
            else:
                return None
            if stride.get(x, 0) <= 0:
                return None
            found[x] = part
            rest //= part
        return dict(reversed(found.items()))

    def extent(self, label: str) -> int:
        return self.tile.extents(label)[0]

    def source(self, value: Expr) -> Buffer:
        """The operand's memory, as a parameter of the kernel."""
        return under_casts(self.tile.operand(value, {})).attr

    def view(self) -> View:
        sizes = tuple(1 + sum(self.extent(x) - 1 for x in a.labels + a.back) for a in self.axes)
        return View(self.start, sizes, tuple(a.stride for a in self.axes), tuple(a.box for a in self.axes))

    def copies(self, source: Buffer, first: Expr, inner: Expr, stage: Expr, gate: Buffer) -> list[Stmt]:
        """Fill a stage with the tile from row (column) `first` and inner position `inner` on."""
        out: list[Stmt] = []
        for j in range(1 if self.along_k else self.width // ROW):
            at = dict(self.tile.outer)
            at |= self.tile.place(self.labels, first if self.along_k else simplify(first + ROW * j))
            at |= self.tile.place(self.tile.parts.inner, inner)
            place = []
            for a in self.axes:
                e: Expr = _ZERO
                for x in a.labels:
                    e = e + at[self.tile.at[x]]
                for x in a.back:
                    e = e + (self.extent(x) - 1) - at[self.tile.at[x]]
                place.append(simplify(e))
            index = (stage, _ZERO, _ZERO) if self.along_k else (stage, loops.const(j), _ZERO, _ZERO)
            out.append(instructions.TmaCopy(self.shared, index, source, self.view(), tuple(place), gate, stage))
        return out

    def operand(self, stage: Expr, first: Expr) -> Expr:
        """The load of the tile's first element for rows (columns) from `first` on."""
        if self.along_k:
            return loops.load(self.shared, stage, first, _ZERO)
        return loops.load(self.shared, stage, simplify(first // ROW), _ZERO, simplify(first % ROW))


def panels(tile: GpuTile) -> tuple[BulkPanel, BulkPanel] | None:
    """Both operands' tiles, if both are boxes in memory."""
    sched: schedule.GpuMma = tile.sched  # type: ignore[assignment]
    a = BulkPanel(tile, tile.row_value, tile.parts.rows, sched.bm, "a_tile")
    b = BulkPanel(tile, tile.col_value, tile.parts.columns, sched.bn, "b_tile")
    return (a, b) if a.possible and b.possible else None


def shares(groups: int) -> tuple[list[Stmt], list[Stmt]]:
    """Registers of the threads that multiply, `groups` groups of 128, and of the one group that copies."""
    total = REGISTERS // (groups + 1) // 8 * 8 * (groups + 1)  # what a block starts with
    return [instructions.SetMaxNReg((total - TO_COPY) // groups // 8 * 8)], [instructions.SetMaxNReg(TO_COPY)]


def lower_bulk(tile: GpuTile, both: tuple[BulkPanel, BulkPanel], results) -> Stmt:
    """The kernel; `results(acc, t, origin, group)` gives the epilogue and the shared memory that it needs."""
    sched: schedule.GpuMma = tile.sched  # type: ignore[assignment]
    threads, stages = sched.threads, sched.stages
    high = sched.lanes // 2
    rows, columns = sched.bm // sched.gm, sched.bn // sched.gn
    steps = -(-tile.k // sched.bk)
    total = tile.batch * -(-tile.m // sched.bm) * -(-tile.n // sched.bn)
    blocks = min(sched.persistent, total) if sched.persistent else total
    turns = -(-total // blocks)
    t, b = loops.axis("t", sched.block), split_axis(blocks, "b")
    full, free = (Buffer(name, int64, (stages,), "gate") for name in ("full", "free"))
    arrivals = threads // 32

    def each_tile(make) -> Stmt:
        """`make(turn, first row, first column)` for every tile of the block."""
        if turns == 1:
            return make(_ZERO, *tile_origin(tile, sched.bm, sched.bn, b))
        turn = loops.axis("turn", turns)
        extent = (loops.const(total + blocks - 1) - b) // blocks
        return loops.loop(turn, make(turn, *tile_origin(tile, sched.bm, sched.bn, simplify(turn * blocks + b))),
                          "serial", extent)

    def producer() -> Stmt:
        sources = [p.source(v) for p, v in zip(both, (tile.row_value, tile.col_value), strict=True)]

        def fill(turn: Expr, row0: Expr, col0: Expr) -> Stmt:
            step = split_axis(steps, "step")
            count = simplify(turn * steps + step)
            stage = simplify(count % stages)
            body = [instructions.Await(free, stage, simplify(count // stages))]
            for panel, source, first in zip(both, sources, (row0, col0), strict=True):
                body += panel.copies(source, first, simplify(step * sched.bk), stage, full)  # type: ignore[arg-type]
            body.append(instructions.Arrive(full, stage, 1))  # type: ignore[arg-type]
            return loops.loop(step, loops.seq(*body)) if steps > 1 else loops.seq(*body)

        return each_tile(fill)

    acc = Buffer("acc", tile.accumulator, (rows // high, columns // 8, 4), "reg")
    number = t // sched.lanes if sched.gm * sched.gn > 1 else _ZERO
    group_row, group_col = simplify((number // sched.gn) * rows), simplify((number % sched.gn) * columns)
    shared: list[Buffer] = []

    def release(stage: Expr) -> Stmt:
        return loops.If(loops.op("eq", t % 32, _ZERO), instructions.Arrive(free, stage, arrivals))

    def multiply(turn: Expr, row0: Expr, col0: Expr) -> Stmt:
        i, j, r = (loops.axis(x, e) for x, e in zip(("i", "j", "r"), acc.shape, strict=True))
        step = split_axis(steps, "step")
        count = simplify(turn * steps + step)
        stage = simplify(count % stages)
        orders = ("mk" if both[0].along_k else "km", "nk" if both[1].along_k else "kn")
        zero = loops.store(acc, (i, j, r), loops.const(0, tile.accumulator))
        product = instructions.Mma(acc, (i, _ZERO, _ZERO), both[0].operand(stage, simplify(group_row + i * high)),
                            both[1].operand(stage, group_col), high, columns, sched.bk, *orders, sched.lanes)
        one = loops.seq(
            instructions.Await(full, stage, simplify(count // stages + 1)),
            loops.loop(i, product, "unroll"),
            instructions.Wait("mma", rows // high),  # all but this step's
        )
        if steps > 1:
            last = release(simplify((count + (stages - 1)) % stages))
            one = loops.loop(step, loops.seq(one, loops.If(loops.op("lt", _ZERO, step), last)))
        end = simplify((turn * steps + (steps - 1)) % stages)
        epilogue, staged = results(acc, t, (row0, col0), (group_row, number % sched.gn))
        if staged not in shared:
            shared.append(staged)
        return loops.seq(
            loops.loop(i, loops.loop(j, loops.loop(r, zero, "unroll"), "unroll"), "unroll"),
            one, instructions.Wait("mma", 0), release(end), epilogue,
        )

    more, fewer = shares(threads // 128) if sched.copying == 128 else ((), ())
    consumer = loops.Seq((*more, loops.Alloc(acc), each_tile(multiply)))
    role = loops.If(loops.op("lt", t, loops.const(threads)), consumer,
                    loops.seq(*fewer, loops.If(loops.op("eq", t, loops.const(threads)), producer())))
    return launch(b, t, role, [*(p.shared for p in both), *shared, full, free])
