"""Loop IR read from text: `parse_kernel`, kernels and statements. The syntax is in `ir/loops/syntax.py`."""

from __future__ import annotations

import re

from dlc.base.errors import ParseError
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.loc import Loc
from dlc.ir.loops.instructions import Arrive, Async, Await, Mma, SetMaxNReg, StoreTile, TileMma, TmaCopy, View, Wait
from dlc.ir.loops.ir import (
    KINDS,
    RUNTIME,
    Alloc,
    AllReduce,
    Buffer,
    Expr,
    For,
    If,
    Kernel,
    Prefetch,
    Seq,
    Stmt,
    Store,
    Sync,
    axis,
    const,
    seq,
    store,
)
from dlc.ir.loops.parse_expr import Tokens
from dlc.ir.loops.syntax import COMBINE_SIGN, RESERVED, TYPES, Quoted

_HEADER = re.compile(r"kernel (\w+)\((.*?)\)(?:\s+# ?(.*))?$")
_NOTE = re.compile(r"\s+# (\w+): (.*)$")
_MARKS = "((?: writes| streams| aliased| swizzled)*)"
_BUFFER = re.compile(rf"(\w+)\s*:\s*(?:(\w+) )?(\w+)\[([^\]]*)\]{_MARKS}(?:\s+# ?(.*))?$")
_MMA = re.compile(r"mma\((\d+)x(\d+)x(\d+) of (\d+), (mk|km|sums), (nk|kn)\) (.*)$")
_TILEMMA = re.compile(r"tilemma\((\d+), (\d+), (\d+)\) (.*\]) \+= (.*)$")
_DRAIN = re.compile(r"store_tile (.*\]) = (.*)$")
_ARRIVE = re.compile(r"arrive\((\d+)\) (\w+\[.*\])$")
_AWAIT = re.compile(r"await (\w+\[.*)$")
_BULK = re.compile(r"tma_copy (.*\]) = (\w+)\((\d+); ([^)]*)\) at (.*)$")
_FOR = re.compile(r"for (\w+) in (?:(.+) of )?(\d+)(?: (\w+))?(?:\((\d+)\))?:$")
_STORE = re.compile(r"(?<=\])\s*(=(?!=)|[+*&|]=|max=|min=)\s*")
_LARGEST = 1 << 40  # extent of an axis or a dimension
_SIGN_COMBINE = {sign: name for name, sign in COMBINE_SIGN.items()}


def parse_kernel(text: str) -> Kernel:
    """The kernel written in `text`. Raises ParseError naming line and column."""
    lines: list[tuple[int, str]] = []
    notes = True  # the comments after the header that say what the parameters hold
    for n, raw in enumerate(text.splitlines(), 1):
        if raw.lstrip().startswith("#"):
            notes = notes and len(lines) > 0 and _NOTE.match(raw) is not None
            if not notes:
                continue
        elif raw.strip():
            notes = not lines
        if raw.strip():
            lines.append((n, raw.rstrip()))
    if not lines:
        raise ParseError("no kernel: the text is empty")
    parser = _Parser(lines)
    try:
        return parser.kernel()
    except RecursionError:
        raise parser.fail("nested too deeply") from None


class _Parser:
    def __init__(self, lines: list[tuple[int, str]]):
        self.lines = lines
        self.at = 0
        self.line_of: dict[Stmt, int] = {}

    def fail(self, message: str, column: int | None = None) -> ParseError:
        """An error at a column of the current line (from 0; by default where its text begins)."""
        number, raw = self.lines[min(self.at, len(self.lines) - 1)]
        indent = len(raw) - len(raw.lstrip())
        column = indent if column is None else min(column, len(raw))
        mark = "" if column == indent else f"\n    {' ' * (column - indent)}^"
        return ParseError(f"line {number}, column {column + 1}: {message}\n    {raw.strip()}{mark}")

    def kernel(self) -> Kernel:
        match = _HEADER.match(self.lines[0][1])
        if not match:
            raise self.fail("expected 'kernel name(parameters)'")
        name, params, facts = match.groups()
        notes = {}
        self.at = 1
        while self.at < len(self.lines) and self.lines[self.at][1].lstrip().startswith("#"):
            found = _NOTE.match(self.lines[self.at][1])
            assert found is not None
            notes[found[1]] = found[2]
            self.at += 1
        at, self.at = self.at, 0
        buffers, marks, column = [], {}, match.start(2)
        for part in re.split(r"(,\s*(?=\w+\s*:))", params) if params.strip() else ():
            if not part.startswith(","):
                buffer, mark = self.buffer(part, notes, column)
                if any(buffer.name == b.name for b in buffers):
                    raise self.fail(f"two parameters are called {buffer.name}", column)
                buffers.append(buffer)
                marks[buffer] = mark
            column += len(part)
        extra = self.facts(facts or "")
        self.at = at
        body = self.block({b.name: b for b in buffers}, 1)
        if self.at < len(self.lines):
            raise self.fail("unexpected indentation")
        streams, aliased = (frozenset(b for b in buffers if mark in marks[b]) for mark in ("streams", "aliased"))
        writes = streams | {b for b in buffers if "writes" in marks[b]}
        return Kernel(name, tuple(buffers), writes, body, lines=self.line_of, streams=streams,
                      aliased=aliased, **extra)

    def facts(self, text: str) -> dict:
        found: dict = {}
        locs = re.search(r"(?:^|; )at ([^;]*:\d+)$", text)
        if locs:
            text = text[: locs.start()]
            parts = (loc.rpartition(":") for loc in locs[1].split(", "))
            found["locs"] = tuple(Loc(file, int(line)) for file, _, line in parts)
        for key in ("bytes", "flops"):
            number = re.search(rf"(?:^|; ){key}: (\d+)$", text)
            if number:
                found[key] = int(number[1])
                text = text[: number.start()]
        if text.startswith("schedule: "):
            found["schedule"] = Quoted(text.removeprefix("schedule: ").removesuffix(" tuned"))
            found["tuned"] = text.endswith(" tuned")
        return found

    def name(self, name: str, column: int) -> str:
        if name in RESERVED or not name.isidentifier():
            raise self.fail(f"{name!r} cannot be a name", column)
        return name

    def extent(self, text: str, column: int) -> int:
        if not text.strip().isdecimal() or int(text) > _LARGEST:
            raise self.fail(f"expected a size up to 2**40, found {text.strip()!r}", column)
        return int(text)

    def buffer(self, text: str, notes: dict[str, str], column: int) -> tuple[Buffer, list[str]]:
        match = _BUFFER.match(text.strip())
        if not match or match[3] not in TYPES:
            raise self.fail(f"expected 'name: type[shape]', got {text!r}", column)
        name, space, short, shape, marks, note = match.groups()
        dims = tuple(RUNTIME if n == "n" else self.extent(n, column) for n in shape.split(",") if n or "," in shape)
        self.name(name, column)
        buffer = Buffer(name, TYPES[short], dims, space or "global", note or notes.get(name, ""), "swizzled" in marks)
        return buffer, marks.split()

    def block(self, scope: dict[str, Buffer | Expr], least: int) -> Stmt:
        """The statements indented as the first of them, by `least` or more; a body of one statement is that."""
        scope, body = dict(scope), []
        start = self.at
        depth = least
        while self.at < len(self.lines):
            raw = self.lines[self.at][1]
            indent = len(raw) - len(raw.lstrip(" "))
            if raw[indent] == "\t":
                raise self.fail("indented by a tab; use spaces", indent)
            if indent < depth:
                break
            if self.at == start:
                depth = indent
            if indent > depth:
                raise self.fail("unexpected indentation")
            number = self.lines[self.at][0]
            made = self.statement(_code(raw), scope, depth)
            self.line_of.update(dict.fromkeys(made, number))
            body += made
        if self.at == start:
            raise self.fail("expected an indented block")
        if any(isinstance(s, Alloc) for s in body):
            return Seq(tuple(body))
        return seq(*body) if body else Seq(())

    def statement(self, text: str, scope: dict[str, Buffer | Expr], depth: int) -> list[Stmt]:
        if text.startswith("for "):
            return [self.loop(text, scope, depth)]
        if text.startswith("if ") and text.endswith(":"):
            return [self.branch(text, scope, depth)]
        if text == "scope:":
            self.at += 1
            return [self.block(scope, depth + 1)]
        made: list[Stmt] = []
        if text.startswith("alloc "):
            buffer, _ = self.buffer(text.removeprefix("alloc "), {}, depth + 6)
            scope[buffer.name] = buffer
            made = [Alloc(buffer)]
        elif text.startswith("let "):
            name, sign, value = text.removeprefix("let ").partition("=")
            if not sign:
                raise self.fail("expected 'let name = value'")
            scope[self.name(name.strip(), depth + 4)] = self.expression(value, scope, None, depth + 5 + len(name))
        elif text == "sync":
            made = [Sync()]
        elif text.startswith("sync ") and text[5:].isdecimal():
            made = [Sync(int(text[5:]))]
        elif text.startswith("prefetch "):
            (buffer, index), rest = self.places(text[9:], scope, depth + 9)
            rest.done()
            made = [Prefetch(buffer, index)]
        elif text.startswith("setmaxnreg ") and text[11:].isdecimal():
            made = [SetMaxNReg(int(text[11:]))]
        elif match := _ARRIVE.match(text):
            (gate, (slot,)), _ = self.places(match[2], scope, depth + match.start(2))
            made = [Arrive(gate, slot, int(match[1]))]
        elif match := _AWAIT.match(text):
            (gate, (slot,)), rest = self.places(match[1], scope, depth + match.start(1))
            made = [Await(gate, slot, rest.build(rest.infix(0), dtypes.int64))]
            rest.done()
        elif match := _BULK.match(text):
            (gate, (slot,)), rest = self.places(match[1], scope, depth + match.start(1))
            buffer, index = self.place_of(rest)
            source = scope.get(match[2])
            axes = re.findall(r"(\d+) of (\d+):(\d+)(?:, |$)", match[4])
            if not isinstance(source, Buffer) or not axes:
                raise self.fail("expected 'tma_copy gate[] buffer[] = source(start; box of size:stride, ...) at ...'")
            box, sizes, strides = (tuple(map(int, x)) for x in zip(*axes, strict=True))
            tokens = Tokens(self.fail, match[5], scope, depth + match.start(5))
            at = [tokens.build(tokens.infix(0), dtypes.int64)]
            while tokens.take(","):
                at.append(tokens.build(tokens.infix(0), dtypes.int64))
            tokens.done()
            made = [TmaCopy(buffer, index, source, View(int(match[3]), sizes, strides, box), tuple(at), gate, slot)]
        elif text == "async:":
            self.at += 1
            return [Async(self.block(scope, depth + 1))]
        elif text.startswith("wait "):
            what, _, pending = text.removeprefix("wait ").partition(" ")
            if what not in ("copy", "mma") or not pending.isdecimal():
                raise self.fail("expected 'wait copy|mma number'")
            made = [Wait(what, int(pending))]
        elif match := _MMA.match(text):
            stored = self.store(match[7], scope, depth + match.start(7))
            if stored.value.op != "mul" or any(e.op != "load" for e in stored.value.args):
                raise self.fail("expected 'mma(...) sums[...] += a[...] * b[...]'")
            m, n, k, lanes = (int(match[x]) for x in range(1, 5))
            made = [Mma(stored.buffer, stored.index, *stored.value.args, m, n, k, match[5], match[6], lanes,
                        stored.combine is None)]
        elif match := _TILEMMA.match(text):
            (buffer, index), _ = self.places(match[4], scope, depth + match.start(4))
            tokens = Tokens(self.fail, match[5], scope, depth + match.start(5))
            tree = tokens.infix(0)
            tokens.done()
            if tree[:2] != ("op", "mul") or any(x[0] != "load" for x in tree[2]):
                raise self.fail("expected 'tilemma(k, stride, stride) sums[...] += a[...] * b[...]'")
            a, b = (tokens.build(x, None) for x in tree[2])
            made = [TileMma(buffer, index, a, b, *(int(match[x]) for x in (1, 2, 3)))]
        elif match := _DRAIN.match(text):
            (buffer, index), _ = self.places(match[1], scope, depth + match.start(1))
            (source, at), _ = self.places(match[2], scope, depth + match.start(2))
            made = [StoreTile(buffer, index, source, at)]
        elif text.startswith("fold("):
            lanes, _, rest = text.removeprefix("fold(").partition(") ")
            stored = self.store(rest, scope, depth + len(text) - len(rest))
            if stored.combine is None or not lanes.isdecimal():
                raise self.fail("expected 'fold(lanes) buffer[index] combine= value'")
            made = [AllReduce(stored.buffer, stored.index, stored.value, stored.combine, int(lanes))]
        elif text != "pass":
            made = [self.store(text, scope, depth)]
        self.at += 1
        return made

    def places(self, text: str, scope: dict[str, Buffer | Expr], column: int) -> tuple[tuple, Tokens]:
        """The first `buffer[index]` of a text, and what follows it."""
        tokens = Tokens(self.fail, text, scope, column)
        return self.place_of(tokens), tokens

    def place_of(self, tokens: Tokens) -> tuple[Buffer, tuple[Expr, ...]]:
        target = tokens.atom()
        if target[0] != "load" or target[3] is not None:
            raise self.fail("expected 'buffer[index]'")
        return target[1], tuple(tokens.build(i, dtypes.int64) for i in target[2])

    def loop(self, text: str, scope: dict[str, Buffer | Expr], depth: int) -> For:
        match = _FOR.match(text)
        if not match:
            raise self.fail("expected 'for axis in [extent of] number [kind][(lanes)]:'")
        name, extent, size, kind, lanes = match.groups()
        if kind and kind not in KINDS:
            raise self.fail(f"no loop kind {kind!r}; there are {', '.join(KINDS)}", depth + match.start(4))
        a = axis(self.name(name, depth + 4), self.extent(size, depth + match.start(3)))
        limit = const(int(size))
        if extent is not None:
            limit = self.expression(extent, scope, dtypes.int64, depth + match.start(2))
        self.at += 1
        return For(a, limit, self.block({**scope, name: a}, depth + 1), kind or "serial", int(lanes or 0))

    def branch(self, text: str, scope: dict[str, Buffer | Expr], depth: int) -> If:
        cond = self.expression(text[3:-1], scope, dtypes.bool_, depth + 3)
        self.at += 1
        then = self.block(scope, depth + 1)
        other = None
        if self.at < len(self.lines) and _code(self.lines[self.at][1]) == "else:":
            raw = self.lines[self.at][1]
            if len(raw) - len(raw.lstrip()) == depth:
                self.at += 1
                other = self.block(scope, depth + 1)
        return If(cond, then, other)

    def store(self, text: str, scope: dict[str, Buffer | Expr], column: int) -> Store:
        sign = _STORE.search(text)
        if not sign:
            raise self.fail("not a statement", column)
        place, rest = text[: sign.start()], text[sign.end() :]
        tokens = Tokens(self.fail, place, scope, column)
        target = tokens.atom()
        tokens.done()
        if target[0] != "load" or target[3] is not None:
            raise self.fail(f"cannot store to {place!r}", column)
        buffer = target[1]
        at = [tokens.build(i, dtypes.int64) for i in target[2]]
        tokens = Tokens(self.fail, rest, scope, column + sign.end())
        value = tokens.build(tokens.infix(0), buffer.dtype)
        predicate = tokens.build(tokens.infix(0), dtypes.bool_) if tokens.take("if") else None
        tokens.done()
        return store(buffer, at, value, _SIGN_COMBINE.get(sign[1]), predicate)

    def expression(self, text: str, scope: dict[str, Buffer | Expr], expected: DType | None, column: int) -> Expr:
        tokens = Tokens(self.fail, text, scope, column)
        tree = tokens.infix(0)
        tokens.done()
        return tokens.build(tree, expected)


def _code(raw: str) -> str:
    """A line without its comment; that of an `alloc` says what the buffer holds."""
    text = raw.strip()
    return text if text.startswith("alloc ") else text.partition("#")[0].rstrip()
