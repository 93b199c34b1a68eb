"""Tiles of a matrix unit: AMX.

A thread's eight tile registers have shapes, which one instruction sets for all of them and another gives back; so a
kernel that multiplies tiles does the first where it begins and the second where it ends, on every thread and for every
range. Sums have the first registers, each its own; the others hold operands, rows' tiles first. A tile that was loaded
is not loaded again while it is there, so the order of the TileMmas decides what is read how often.
"""

from __future__ import annotations

from dlc.codegen.llvm.address import Addresses
from dlc.codegen.llvm.builder import Builder, LlvmScope, Value
from dlc.codegen.llvm.environment import Environment
from dlc.codegen.llvm.expr import EmitError, Expressions
from dlc.codegen.llvm.memory import Memory
from dlc.ir.loops.instructions import StoreTile, TileMma
from dlc.ir.loops.ir import Buffer, Expr, load_parts

REGISTERS = 8
_NAME = "llvm.x86."


class AmxEmitter:
    """Emission of TileMma and StoreTile."""

    def __init__(self, b: Builder, env: Environment, expressions: Expressions, addresses: Addresses, memory: Memory):
        self.b, self.env = b, env
        self.expr = expressions.expr
        self.addresses, self.memory = addresses, memory
        self._sums: dict[Buffer, int] = {}  # the first register of each buffer of sums
        self._depth = 0  # pairs of a tile
        self._rooms: tuple[range, range] = (range(0), range(0))  # registers for the operands a and b
        self._held: dict[int, tuple] = {}  # what the operands' registers hold, the latest last

    def allocate(self, buffer: Buffer) -> None:
        """Sums of 0 in registers."""
        if not self.b.target.has_amx_bf16:
            raise EmitError(f"{self.env.kernel.name}: this processor has no matrix unit")
        if buffer not in self._sums:
            if self._sums:
                raise EmitError(f"{self.env.kernel.name}: sums in two buffers of tiles")
            count, across = _count(buffer), buffer.shape[0] if len(buffer.shape) > 2 else 1
            free = REGISTERS - count
            if free < 2:
                raise EmitError(f"{self.env.kernel.name}: {count} tiles of sums leave no registers for operands")
            down = min(across, free - 1)
            self._sums[buffer] = 0
            self._rooms = range(count, count + down), range(count + down, REGISTERS)
        for n in range(_count(buffer)):
            self._do("tilezero", ("i8", str(n)))

    def multiply(self, s: TileMma) -> None:
        if self._depth not in (0, s.k):
            raise EmitError(f"{self.env.kernel.name}: tiles of {self._depth} and of {s.k} pairs")
        self._depth = s.k
        a = self._operand(s.a, s.a_stride, self._rooms[0])
        b = self._operand(s.b, s.b_stride, self._rooms[1])
        self._do("tdpbf16ps", ("i8", str(self._sum(s.buffer, s.index))), ("i8", str(a)), ("i8", str(b)))

    def _operand(self, e: Expr, stride: int, room: range) -> int:
        """The register of a tile in memory."""
        buffer, index, _ = load_parts(e)
        p = self.addresses.pointer(self.addresses.place(buffer, index), self.b.depth)
        scope = self.b.scopes[-1]
        what = (scope, scope.label, p.text, stride, self.memory.version(buffer))
        for register in room:
            if self._held.get(register) == what:
                self._held[register] = self._held.pop(register)
                return register
        unused = [r for r in room if r not in self._held or not _here(self._held[r], scope)]
        register = unused[0] if unused else next(r for r in self._held if r in room)
        self._held.pop(register, None)
        self._held[register] = what
        arguments = ("ptr", p.text), ("i64", str(stride * buffer.dtype.itemsize))
        self._do("tileloadd64", ("i8", str(register)), *arguments)
        return register

    def drain(self, s: StoreTile) -> None:
        p: Value = self.addresses.pointer(self.addresses.place(s.buffer, s.index), self.b.depth)
        stride = s.buffer.shape[-1] * s.buffer.dtype.itemsize
        self._do("tilestored64", ("i8", str(self._sum(s.source, s.at))), ("ptr", p.text), ("i64", str(stride)))
        self.memory.touch(s.buffer)

    def _sum(self, buffer: Buffer, index: tuple[Expr, ...]) -> int:
        if buffer not in self._sums:
            raise EmitError(f"{self.env.kernel.name}: {buffer.name} is used outside its Alloc")
        number = 0
        for e, extent in zip(index[:-2], buffer.shape, strict=False):
            at = self.expr(e).const
            if at is None or not 0 <= at < extent:
                raise EmitError(f"{self.env.kernel.name}: an index of {buffer.name} must be a constant inside it")
            number = number * extent + at
        return self._sums[buffer] + number

    def _do(self, name: str, *arguments: tuple[str, str]) -> None:
        self.b.do(self.b.call_text("void", f"{_NAME}{name}", list(arguments)))

    # the registers' shapes

    def shapes(self, name: str) -> tuple[list[str], list[str], list[str]]:
        """Lines before the function (a constant of this name), where it begins, and where it ends."""
        if not self._sums:
            return [], [], []
        (buffer,) = self._sums
        (m, n), k = buffer.shape[-2:], max(self._depth, 1)
        shapes = {r: (m, n) for r in range(_count(buffer))}
        shapes |= dict.fromkeys(self._rooms[0], (m, k)) | dict.fromkeys(self._rooms[1], (k, n))
        layout = bytearray(64)
        layout[0] = 1  # the palette: 8 registers of 16 rows of 64 bytes
        for register, (rows, words) in shapes.items():
            layout[16 + 2 * register] = 4 * words
            layout[48 + register] = rows
        text = "".join(f"\\{byte:02X}" for byte in layout)
        before = [f'@"{name}" = internal constant [64 x i8] c"{text}", align 64']
        begin = self.b.call_text("void", f"{_NAME}ldtilecfg", [("ptr", f'@"{name}"')])
        return before, [f"  {begin}"], [f"  {self.b.call_text('void', f'{_NAME}tilerelease', [])}"]


def _count(buffer: Buffer) -> int:
    m, n = buffer.shape[-2:]
    return buffer.size // (m * n)


def _here(what: tuple, scope: LlvmScope) -> bool:
    return what[0] is scope and what[1] == scope.label
