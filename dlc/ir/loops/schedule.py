"""Schedules: how a kernel's loops are tiled, vectorised and shared out. Data only; chosen in `codegen/schedule/cpu.py`.

`lanes` is the vector width in elements; 0 asks for the plain serial loops that the `loops` dump shows and the
interpreter takes as the meaning of the scheduled kernel.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Map:
    """Element by element: `chunk` elements (or rows of the inner axis) a task. `tile` transposes through a
    register tile of tile x tile elements when reads and writes run along different axes."""

    lanes: int = 0
    chunk: int = 0
    tile: int = 0


@dataclass(frozen=True)
class Rows:
    """One row after another: `rows` rows a task, vectors along the inner axis, `unroll` accumulators."""

    lanes: int = 0
    unroll: int = 1
    rows: int = 0


@dataclass(frozen=True)
class Columns:
    """Vectors across rows (the group's row axis number `axis`): lanes * unroll rows a task, inner axes in order."""

    lanes: int
    unroll: int
    axis: int


@dataclass(frozen=True)
class Contract:
    """A register tile of mr x nr results; a task is block_m x block_n tiles. """

    lanes: int = 0
    mr: int = 1
    nr: int = 1
    block_m: int = 1
    block_n: int = 1
    swap: bool = False  # the second operand gives the rows, the first the vectors
    along: bool = False  # vectors run along the inner range, of which both operands are contiguous; nr counts columns
    run: int = 0  # extent of the last row labels that lie at one stride; a tile stays inside a run (0: any rows)
    stack: int = 0  # a matrix unit's tiles above one another, mr / stack rows each, and nr / 16 beside (0: vectors)
    tail: int = 0  # fewest lanes of the vectors of a last, partial tile (0: it takes the others', masked)
    stream: int = 0  # positions of the inner range by which columns, and far rows, are fetched before they are needed
    ahead: bool = False  # what is read and written beside a tile's sums is fetched while they are computed


@dataclass(frozen=True)
class Plain:
    """Serial loops, vectors along the last axis where that is independent."""

    lanes: int = 0


# The GPU's. `block` is the number of threads of a block, `lanes` the neighbouring elements that a thread moves at once.


@dataclass(frozen=True)
class GpuMap:
    """Element by element: a thread computes `unroll` vectors, a block apart. With `tile`, reads that run along another
    axis than the writes are turned in shared memory, in tiles of tile x tile elements."""

    block: int = 256
    lanes: int = 1
    unroll: int = 1
    tile: int = 0


@dataclass(frozen=True)
class GpuRows:
    """A group of `group` neighbouring threads a row; a thread's part of a row of at most `keep` elements stays in its
    registers, a longer one is read again `steps` vectors at a time."""

    block: int = 128
    group: int = 32
    lanes: int = 1
    keep: int = 32
    steps: int = 4

    @property
    def unroll(self) -> int:
        """Vectors of partial results in a thread."""
        return 1


@dataclass(frozen=True)
class GpuColumns:
    """A thread computes `lanes` neighbouring rows (along the group's row axis number `axis`); `depth` threads share the
    inner positions of a row, `steps` of them at a time."""

    block: int
    lanes: int
    axis: int
    depth: int = 1
    steps: int = 4

    @property
    def unroll(self) -> int:
        """Vectors of rows in a thread."""
        return 1


@dataclass(frozen=True)
class GpuContract:
    """A block computes bm x bn results in steps of bk of the inner range, a thread tm x tn of them. `swap` as on the
    CPU: the second operand gives the rows. Registers are to suffice for `blocks` blocks on a multiprocessor."""

    bm: int = 64
    bn: int = 64
    bk: int = 16
    tm: int = 4
    tn: int = 4
    swap: bool = False
    blocks: int = 1

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.bm // self.tm * (self.bn // self.tn)

    @property
    def nr(self) -> int:
        """Columns that are computed together (what `lower_contract` asks of a schedule)."""
        return self.bn


MANY_SUMS = 96  # in a thread: with as many other values, more registers than two groups of 128 and a warp have


@dataclass(frozen=True)
class GpuMma:
    """Matrix instructions on tiles in shared memory: a block computes bm x bn results in steps of bk, with a ring of
    `stages` tiles of each operand. Groups of `lanes` threads (128: wgmma, 32: mma.sync) stand gm x gn in the block.
    Registers are to suffice for `blocks` blocks on a multiprocessor. With `bulk` threads of their own copy the tiles,
    where they are boxes in memory, and `persistent` blocks at most share all tiles."""

    bm: int = 128
    bn: int = 256
    bk: int = 64
    stages: int = 4
    gm: int = 2
    gn: int = 1
    lanes: int = 128
    swap: bool = False
    blocks: int = 1
    bulk: bool = False
    persistent: int = 0

    @property
    def threads(self) -> int:
        """Threads of a block that multiply."""
        return self.gm * self.gn * self.lanes

    @property
    def copying(self) -> int:
        """Threads of a block that copy in bulk: a warp, or a group of 128 that leaves the others its registers where
        each of these holds many sums."""
        many = self.gm * self.gn > 1 and self.bm * self.bn >= MANY_SUMS * self.threads
        return (128 if many else 32) * self.bulk

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.threads + self.copying

    @property
    def nr(self) -> int:
        """Columns that are computed together."""
        return self.bn


@dataclass(frozen=True)
class GpuSkinny:
    """A contraction with few rows: a block computes bm x bn results in chunks of bk of the inner range, dealt out to
    `slices` groups of threads, each of which computes tm x tn results over runs of `along` positions."""

    block: int = 512
    bm: int = 32
    bn: int = 16
    bk: int = 128
    tm: int = 4
    tn: int = 4
    slices: int = 16
    along: int = 4
    swap: bool = False

    @property
    def nr(self) -> int:
        """Columns that are computed together."""
        return self.bn


@dataclass(frozen=True)
class GpuAttention:
    """`groups` groups of `lanes` threads (128: wgmma, 32: mma.sync) hold 64 (16) rows each of one side of the scores,
    queries or keys, in registers or, `shared`, in shared memory; the other side comes in tiles of `columns`, through a
    ring of `stages`. Registers are to suffice for `blocks` blocks on a multiprocessor. Float32: 32 lanes, `shared`."""

    columns: int = 64
    groups: int = 2
    stages: int = 2
    lanes: int = 128
    blocks: int = 1
    shared: bool = False

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.groups * self.lanes

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return self.groups * self.lanes // 2


@dataclass(frozen=True)
class GpuOrdered:
    """Scatter, cumulative and sort: blocks of `block` threads with a piece each, about `threads` pieces where the
    work can be cut."""

    block: int = 128
    threads: int = 1 << 16


Schedule = (GpuOrdered | Map | Rows | Columns | Contract | Plain | GpuMap | GpuRows | GpuColumns | GpuContract | GpuMma
            | GpuSkinny | GpuAttention)
