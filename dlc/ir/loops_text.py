"""Loop IR as text: `print_kernel`, `print_stmt`, `print_expr`, `parse_kernel`. `parse(print(k))` prints the same page.

    kernel softmax_0(x: f32[64], out: f32[64] writes)  # schedule: RowReduce(lanes=16); flops: 320; at train.py:12
      # x: %x f32[4,16]
      for r in 4 parallel:
        alloc m: reg f32[1]
        m[0] = -inf
        for c in min(n, 16) of 16:           # an extent that is not the axis' own
          m[0] max= x[r*16 + c]
        if r < 3:
          out[r] = exp(m[0]) if r != 1       # a predicated store
        else:
          out[r] = x[r + 1 if r < 9]         # a predicated load

`fold(32) m[0] max= x` is a Fold over groups of 32 threads, `mma(64x8x16 of 128, mk, nk) acc[0, 0] += a[0, 0] * b[0, 0]`
an Mma by groups of 128 (with `=` a fresh one), `tilemma(16, 512, 32) acc[0, 0] += x[i*512] * w[j]` a TileMma over 16
pairs with rows 512 and 32 elements apart, `drain sums[0, 0] = acc[0, 0]` a Drain, `prefetch x[i]` a Prefetch, `async:`
an Async, `wait copy 2` a Wait, `arrive(8) free[s]` an Arrive, `await free[s] 2` an Await,
`bulk full[s] tile[s, 0, 0] = x(0; 8 of 20:64, 64 of 64:1) at r, 0` a Bulk: box, size and stride of each axis,
`registers 40` a Registers.

Rows of `ir/scalar.py` with a symbol are infix, with Python's precedences; the others are calls, `f32(x)` is a cast and
`bitcast(x, f32)` a bitcast. A constant carries its type (`1.5:f64`) only where its surroundings do not tell it; alone,
an integer is int64 and a float is float32. Names are unique among those in scope. Subexpressions that a large
statement uses more than once are named by `let` lines before it: they share by identity, so they parse as they were.
`scope:` is a nested Seq that bounds the life of its Allocs. Not printed: `meta`, and the function of a Loc.

Read but not printed, for kernels written by hand: `-x`, `a > b`, `a >= b`, any deeper indentation, `# comments`. What
is wrong with a text is said with line and column.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.errors import ParseError
from dlc.ir.graph import Loc
from dlc.ir.loops import (
    COMBINES,
    KINDS,
    PAIRS,
    RUNTIME,
    Alloc,
    Arrive,
    Async,
    Await,
    Buffer,
    Bulk,
    Drain,
    Expr,
    Fold,
    For,
    If,
    Kernel,
    Mma,
    Prefetch,
    Registers,
    Seq,
    Stmt,
    Store,
    Sync,
    TileMma,
    View,
    Wait,
    axis,
    const,
    exprs,
    load,
    load_parts,
    op,
    seq,
    store,
)
from dlc.ir.scalar import SCALAR_OPS

_COMPARE = 0
_LEVELS = (("==", "!=", "<", "<="), ("|",), ("^",), ("&",), ("<<", ">>"), ("+", "-"), ("*", "/", "//", "%"))
_PRECEDENCE = {symbol: level for level, symbols in enumerate(_LEVELS) for symbol in symbols}
_BY_SYMBOL = {row.symbol: row.name for row in SCALAR_OPS.values() if row.symbol}
_ATOM = len(_LEVELS)
_TYPES = {d.short: d for d in dtypes.ALL}
_RESERVED = {*_TYPES, *SCALAR_OPS, *KINDS, *PAIRS, "cast", "bitcast", "select", "fma", "exp2", "inf", "nan", "true",
             "false", "if", "else", "for", "in", "of", "alloc", "let", "scope", "pass", "sync", "fold", "mma",
             "tilemma", "drain", "async", "wait", "kernel"}
_COMBINE_SIGN = {name: (SCALAR_OPS[name].symbol or name) + "=" for name in COMBINES}
_LET_ABOVE = 40  # statements with fewer nodes are written out in full
_LET_SIZE = 4  # smaller subexpressions are repeated rather than named


class Quoted(str):
    """A schedule read back from text: prints as it was written."""

    def __repr__(self) -> str:
        return str(self)


# ---------------------------------------------------------------- printing


def print_kernel(kernel: Kernel) -> str:
    """The kernel as a page of text."""
    names = _Names({}, set(_RESERVED))
    params = ", ".join(
        f"{names.add(b, b.name)}: {_type(b)}{' writes' if b in kernel.writes else ''}" for b in kernel.params
    )
    facts = []
    if kernel.schedule is not None:
        facts.append(f"schedule: {kernel.schedule!r}")
    if kernel.flops:
        facts.append(f"flops: {kernel.flops}")
    if kernel.bytes:
        facts.append(f"bytes: {kernel.bytes}")
    if kernel.locs:
        facts.append("at " + ", ".join(map(str, kernel.locs)))
    lines = [f"kernel {kernel.name}({params})" + (f"  # {'; '.join(facts)}" if facts else "")]
    lines += [f"  # {names.of[b]}: {b.note}" for b in kernel.params if b.note]
    lines += _block(kernel.body, names, "  ")
    return "\n".join(lines) + "\n"


def print_stmt(stmt: Stmt) -> str:
    """A statement for an error message; free axes and buffers go by their own names."""
    return "\n".join(_statement(stmt, _Names({}, set(_RESERVED)), ""))


def print_expr(expr: Expr) -> str:
    """An expression on one line: `let t0 = ...; x*t0 + t0` where it is large and shares parts."""
    lines, names = _lets((expr,), _Names({}, set(_RESERVED)), "")
    return "; ".join([*lines, _Printer(names).text(expr, None, 0)])


class _Names:
    """Printed names of the buffers, axes and let-expressions in scope."""

    def __init__(self, of: dict[Buffer | Expr, str], taken: set[str]):
        self.of = of
        self.taken = taken

    def child(self) -> _Names:
        return _Names(dict(self.of), set(self.taken))

    def add(self, thing: Buffer | Expr, wanted: str) -> str:
        base = name = re.sub(r"\W", "_", wanted) if wanted and not wanted[0].isdigit() else f"_{wanted}"
        count = 0
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        self.of[thing] = name
        return name


def _type(buffer: Buffer) -> str:
    return f"{buffer.dtype.short}[{','.join('n' if d == RUNTIME else str(d) for d in buffer.shape)}]"


def _block(stmt: Stmt, names: _Names, pad: str) -> list[str]:
    """The lines of a body: a Seq that is the whole body needs no `scope:`."""
    body = list(_flat(stmt))
    while len(body) == 1 and isinstance(body[0], Seq):
        body = list(_flat(body[0]))
    names = names.child()
    lines = [line for s in body for line in _statement(s, names, pad)]
    return lines or [pad + "pass"]


def _flat(stmt: Stmt) -> Iterator[Stmt]:
    for s in stmt.body if isinstance(stmt, Seq) else (stmt,):
        if isinstance(s, Seq) and not any(isinstance(x, Alloc) for x in s.body):
            yield from _flat(s)
        else:
            yield s


def _statement(stmt: Stmt, names: _Names, pad: str) -> list[str]:
    if isinstance(stmt, Seq):
        return [pad + "scope:", *_block(stmt, names, pad + "  ")]
    if isinstance(stmt, Alloc):
        b = stmt.buffer
        layout = " swizzled" if b.swizzled else ""
        note = f"  # {b.note}" if b.note else ""
        return [f"{pad}alloc {names.add(b, b.name)}: {b.space} {_type(b)}{layout}{note}"]
    if isinstance(stmt, Sync):
        return [f"{pad}sync {stmt.threads}" if stmt.threads else pad + "sync"]
    if isinstance(stmt, Wait):
        return [f"{pad}wait {stmt.what} {stmt.pending}"]
    if isinstance(stmt, Registers):
        return [f"{pad}registers {stmt.count}"]
    if isinstance(stmt, Async):
        return [f"{pad}async:", *_block(stmt.body, names, pad + "  ")]
    lets, scope = _lets(exprs(stmt), names, pad)
    printer = _Printer(scope)
    if isinstance(stmt, For):
        inner = names.child()
        whole = stmt.extent.op == "const" and stmt.extent.attr == stmt.axis.attr[1]
        head = f"{inner.add(stmt.axis, stmt.axis.attr[0])} in "
        head += f"{stmt.axis.attr[1]}" if whole else f"{printer.index(stmt.extent)} of {stmt.axis.attr[1]}"
        kind = "" if stmt.kind == "serial" and not stmt.lanes else f" {stmt.kind}"
        lanes = f"({stmt.lanes})" if stmt.lanes else ""
        return [*lets, f"{pad}for {head}{kind}{lanes}:", *_block(stmt.body, inner, pad + "  ")]
    if isinstance(stmt, If):
        lines = [*lets, f"{pad}if {printer.text(stmt.cond, dtypes.bool_, 0)}:", *_block(stmt.then, names, pad + "  ")]
        return lines if stmt.other is None else [*lines, f"{pad}else:", *_block(stmt.other, names, pad + "  ")]
    if isinstance(stmt, Prefetch):
        return [*lets, f"{pad}prefetch {printer.place(stmt.buffer, stmt.index)}"]
    if isinstance(stmt, Fold):
        place = printer.place(stmt.buffer, stmt.index)
        sign = _COMBINE_SIGN[stmt.combine]
        return [*lets, f"{pad}fold({stmt.lanes}) {place} {sign} {printer.text(stmt.value, stmt.buffer.dtype, 0)}"]
    if isinstance(stmt, Mma):
        shape = f"{stmt.m}x{stmt.n}x{stmt.k} of {stmt.lanes}, {stmt.a_order}, {stmt.b_order}"
        place = printer.place(stmt.buffer, stmt.index)
        operands = " * ".join(printer.text(e, None, 0) for e in (stmt.a, stmt.b))
        return [*lets, f"{pad}mma({shape}) {place} {'=' if stmt.fresh else '+='} {operands}"]
    if isinstance(stmt, TileMma):
        place = printer.place(stmt.buffer, stmt.index)
        operands = " * ".join(printer.text(e, None, 0) for e in (stmt.a, stmt.b))
        return [*lets, f"{pad}tilemma({stmt.k}, {stmt.a_stride}, {stmt.b_stride}) {place} += {operands}"]
    if isinstance(stmt, Drain):
        to, source = printer.place(stmt.buffer, stmt.index), printer.place(stmt.source, stmt.at)
        return [*lets, f"{pad}drain {to} = {source}"]
    if isinstance(stmt, (Arrive, Await)):
        gate = printer.place(stmt.gate, (stmt.slot,))
        text = f"arrive({stmt.of}) {gate}" if isinstance(stmt, Arrive) else f"await {gate} {printer.index(stmt.phases)}"
        return [*lets, pad + text]
    if isinstance(stmt, Bulk):
        view = stmt.view
        axes = ", ".join(f"{b} of {n}:{k}" for b, n, k in zip(view.box, view.sizes, view.strides, strict=False))
        gate = printer.place(stmt.gate, (stmt.slot,))
        place = printer.place(stmt.buffer, stmt.index)
        at = ", ".join(map(printer.index, stmt.at))
        return [*lets, f"{pad}bulk {gate} {place} = {printer.name(stmt.source)}({view.start}; {axes}) at {at}"]
    assert isinstance(stmt, Store), stmt
    sign = "=" if stmt.combine is None else _COMBINE_SIGN.get(stmt.combine, f"{stmt.combine}=")
    value = printer.text(stmt.value, stmt.buffer.dtype, 0)
    place = printer.place(stmt.buffer, stmt.index)
    tail = "" if stmt.predicate is None else f" if {printer.text(stmt.predicate, dtypes.bool_, 0)}"
    return [*lets, f"{pad}{place} {sign} {value}{tail}"]


def _lets(roots: tuple[Expr, ...], names: _Names, pad: str) -> tuple[list[str], _Names]:
    """`let` lines for what a large statement shares, and the names with those added."""
    order: list[Expr] = []
    size: dict[Expr, int] = {}
    uses: Counter[Expr] = Counter()
    stack = [(r, False) for r in reversed(roots)]
    while stack:
        e, entered = stack.pop()
        if entered:
            if e not in size:
                size[e] = 1 + sum(size[a] for a in e.args)
                order.append(e)
                uses.update(e.args)
        elif e not in size:
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args))
    uses.update(roots)
    if sum(size[r] for r in roots) <= _LET_ABOVE:
        return [], names
    inner, lines = names.child(), []
    for e in order:
        if uses[e] > 1 and size[e] >= _LET_SIZE:
            text = _Printer(inner).text(e, None, 0)
            lines.append(f"{pad}let {inner.add(e, f't{len(lines)}')} = {text}")
    return lines, inner


def _told(e: Expr) -> bool:
    """Whether the text of `e` tells its type without help."""
    while True:
        if e.op == "const":
            return e.dtype.is_bool
        row = SCALAR_OPS.get(e.op)
        if e.op not in ("select", "fma", "exp2") and (row is None or row.result != "same"):
            return True
        args = e.args[1:] if e.op == "select" else e.args
        if any(_told(a) for a in args[1:]):
            return True
        e = args[0]


class _Printer:
    def __init__(self, names: _Names):
        self.names = names

    def name(self, thing: Buffer | Expr) -> str:
        known = self.names.of.get(thing)
        return known or (thing.name if isinstance(thing, Buffer) else thing.attr[0])

    def index(self, e: Expr) -> str:
        return self.text(e, dtypes.int64, 0)

    def place(self, buffer: Buffer, index: tuple[Expr, ...]) -> str:
        return f"{self.name(buffer)}[{', '.join(map(self.index, index))}]"

    def text(self, e: Expr, expected: DType | None, level: int) -> str:
        """`e` where the reader expects type `expected` (None: unknown) and binding at least `level`."""
        if e in self.names.of or e.op == "axis":
            return self.name(e)
        if e.op == "const":
            return _literal(e, expected)
        if e.op == "load":
            buffer, index, predicate = load_parts(e)
            tail = "" if predicate is None else f" if {self.text(predicate, dtypes.bool_, 0)}"
            return f"{self.name(buffer)}[{', '.join(map(self.index, index))}{tail}]"
        if e.op == "cast":
            return f"{e.dtype.short}({self.text(e.args[0], None, 0)})"
        if e.op == "bitcast":
            return f"bitcast({self.text(e.args[0], None, 0)}, {e.dtype.short})"
        types = _operand_types(e.op, expected, [a.dtype if a in self.names.of or _told(a) else None for a in e.args])
        row = SCALAR_OPS.get(e.op)
        if row is None or not row.symbol:
            return f"{e.op}({', '.join(self.text(a, t, 0) for a, t in zip(e.args, types, strict=True))})"
        own = _PRECEDENCE[row.symbol]
        left = self.text(e.args[0], types[0], own + (own == _COMPARE))
        right = self.text(e.args[1], types[1], own + 1)
        tight = row.symbol in ("*", "%", "//") and re.fullmatch(r"\w+", left) and re.fullmatch(r"\w+", right)
        text = f"{left}{row.symbol}{right}" if tight else f"{left} {row.symbol} {right}"
        return f"({text})" if own < level else text


def _operand_types(name: str, expected: DType | None, told: list[DType | None]) -> list[DType | None]:
    """The type that each operand's surroundings tell: the result's, a sibling's, or the one the operation fixes."""
    if name == "threefry":
        return [dtypes.uint32] * 4
    if name in PAIRS:
        return list(PAIRS[name])
    head: list[DType | None] = []
    if name == "select":
        head, told = [dtypes.bool_], told[1:]
    if name not in ("select", "fma", "exp2") and SCALAR_OPS[name].result != "same":
        expected = None  # a comparison's operands have a type of their own
    if expected is None:
        expected = next((t for t in told if t is not None), None)
    return head + [expected] * len(told)


def _literal(e: Expr, expected: DType | None) -> str:
    if e.dtype.is_bool:
        return "true" if e.attr else "false"
    natural = dtypes.int64 if e.dtype.is_int else dtypes.float32
    return repr(e.attr) if e.dtype is (expected or natural) else f"{e.attr!r}:{e.dtype.short}"


# ---------------------------------------------------------------- parsing

_TOKEN = re.compile(
    r"\s*(?:(?P<num>\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|\d+|(?:inf|nan)\b)|(?P<word>[^\W\d]\w*)"
    r"|(?P<sign><<|>>|//|==|!=|<=|>=|[-+*/%&|^<>()\[\],:]))"
)
_HEADER = re.compile(r"kernel (\w+)\((.*?)\)(?:\s+# ?(.*))?$")
_NOTE = re.compile(r"\s+# (\w+): (.*)$")
_BUFFER = re.compile(r"(\w+)\s*:\s*(?:(\w+) )?(\w+)\[([^\]]*)\](?:( writes| swizzled))?(?:\s+# ?(.*))?$")
_MMA = re.compile(r"mma\((\d+)x(\d+)x(\d+) of (\d+), (mk|km|sums), (nk|kn)\) (.*)$")
_TILEMMA = re.compile(r"tilemma\((\d+), (\d+), (\d+)\) (.*\]) \+= (.*)$")
_DRAIN = re.compile(r"drain (.*\]) = (.*)$")
_ARRIVE = re.compile(r"arrive\((\d+)\) (\w+\[.*\])$")
_AWAIT = re.compile(r"await (\w+\[.*)$")
_BULK = re.compile(r"bulk (.*\]) = (\w+)\((\d+); ([^)]*)\) at (.*)$")
_FOR = re.compile(r"for (\w+) in (?:(.+) of )?(\d+)(?: (\w+))?(?:\((\d+)\))?:$")
_STORE = re.compile(r"(?<=\])\s*(=(?!=)|[+*&|]=|max=|min=)\s*")
_LARGEST = 1 << 40  # extent of an axis or a dimension
_TURNED = {">": "<", ">=": "<="}
_SIGN_COMBINE = {sign: name for name, sign in _COMBINE_SIGN.items()}


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
        buffers, writes, column = [], [], match.start(2)
        for part in re.split(r"(,\s*(?=\w+\s*:))", params) if params.strip() else ():
            if not part.startswith(","):
                buffer, written = self.buffer(part, notes, column)
                if any(buffer.name == b.name for b in buffers):
                    raise self.fail(f"two parameters are called {buffer.name}", column)
                buffers.append(buffer)
                writes += [buffer] if written else []
            column += len(part)
        extra = self.facts(facts or "")
        self.at = at
        body = self.block({b.name: b for b in buffers}, 1)
        if self.at < len(self.lines):
            raise self.fail("unexpected indentation")
        return Kernel(name, tuple(buffers), frozenset(writes), body, meta={"lines": self.line_of}, **extra)

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
            found["schedule"] = Quoted(text.removeprefix("schedule: "))
        return found

    def name(self, name: str, column: int) -> str:
        if name in _RESERVED or not name.isidentifier():
            raise self.fail(f"{name!r} cannot be a name", column)
        return name

    def extent(self, text: str, column: int) -> int:
        if not text.strip().isdecimal() or int(text) > _LARGEST:
            raise self.fail(f"expected a size up to 2**40, found {text.strip()!r}", column)
        return int(text)

    def buffer(self, text: str, notes: dict[str, str], column: int) -> tuple[Buffer, bool]:
        match = _BUFFER.match(text.strip())
        if not match or match[3] not in _TYPES:
            raise self.fail(f"expected 'name: type[shape]', got {text!r}", column)
        name, space, short, shape, mark, note = match.groups()
        dims = tuple(RUNTIME if n == "n" else self.extent(n, column) for n in shape.split(",") if n or "," in shape)
        self.name(name, column)
        buffer = Buffer(name, _TYPES[short], dims, space or "global", note or notes.get(name, ""), mark == " swizzled")
        return buffer, mark == " writes"

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
        elif text.startswith("registers ") and text[10:].isdecimal():
            made = [Registers(int(text[10:]))]
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
                raise self.fail("expected 'bulk gate[] buffer[] = source(start; box of size:stride, ...) at ...'")
            box, sizes, strides = (tuple(map(int, x)) for x in zip(*axes, strict=True))
            tokens = _Tokens(self, match[5], scope, depth + match.start(5))
            at = [tokens.build(tokens.infix(0), dtypes.int64)]
            while tokens.take(","):
                at.append(tokens.build(tokens.infix(0), dtypes.int64))
            tokens.done()
            made = [Bulk(buffer, index, source, View(int(match[3]), sizes, strides, box), tuple(at), gate, slot)]
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
            tokens = _Tokens(self, match[5], scope, depth + match.start(5))
            tree = tokens.infix(0)
            tokens.done()
            if tree[:2] != ("op", "mul") or any(x[0] != "load" for x in tree[2]):
                raise self.fail("expected 'tilemma(k, stride, stride) sums[...] += a[...] * b[...]'")
            a, b = (tokens.build(x, None) for x in tree[2])
            made = [TileMma(buffer, index, a, b, *(int(match[x]) for x in (1, 2, 3)))]
        elif match := _DRAIN.match(text):
            (buffer, index), _ = self.places(match[1], scope, depth + match.start(1))
            (source, at), _ = self.places(match[2], scope, depth + match.start(2))
            made = [Drain(buffer, index, source, at)]
        elif text.startswith("fold("):
            lanes, _, rest = text.removeprefix("fold(").partition(") ")
            stored = self.store(rest, scope, depth + len(text) - len(rest))
            if stored.combine is None or not lanes.isdecimal():
                raise self.fail("expected 'fold(lanes) buffer[index] combine= value'")
            made = [Fold(stored.buffer, stored.index, stored.value, stored.combine, int(lanes))]
        elif text != "pass":
            made = [self.store(text, scope, depth)]
        self.at += 1
        return made

    def places(self, text: str, scope: dict[str, Buffer | Expr], column: int) -> tuple[tuple, _Tokens]:
        """The first `buffer[index]` of a text, and what follows it."""
        tokens = _Tokens(self, text, scope, column)
        return self.place_of(tokens), tokens

    def place_of(self, tokens: _Tokens) -> tuple[Buffer, tuple[Expr, ...]]:
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
        tokens = _Tokens(self, place, scope, column)
        target = tokens.atom()
        tokens.done()
        if target[0] != "load" or target[3] is not None:
            raise self.fail(f"cannot store to {place!r}", column)
        buffer = target[1]
        at = [tokens.build(i, dtypes.int64) for i in target[2]]
        tokens = _Tokens(self, rest, scope, column + sign.end())
        value = tokens.build(tokens.infix(0), buffer.dtype)
        predicate = tokens.build(tokens.infix(0), dtypes.bool_) if tokens.take("if") else None
        tokens.done()
        return store(buffer, at, value, _SIGN_COMBINE.get(sign[1]), predicate)

    def expression(self, text: str, scope: dict[str, Buffer | Expr], expected: DType | None, column: int) -> Expr:
        tokens = _Tokens(self, text, scope, column)
        tree = tokens.infix(0)
        tokens.done()
        return tokens.build(tree, expected)


def _code(raw: str) -> str:
    """A line without its comment; that of an `alloc` says what the buffer holds."""
    text = raw.strip()
    return text if text.startswith("alloc ") else text.partition("#")[0].rstrip()


class _Tokens:
    """One line's tokens; `infix` and `atom` read a tree of tuples, `build` turns it into typed expressions.

    Trees: ("expr", e), ("num", value, dtype or None), ("load", buffer, indices, predicate), ("cast", dtype, x),
    ("bitcast", dtype, x), ("op", name, operands).
    """

    def __init__(self, parser: _Parser, text: str, scope: dict[str, Buffer | Expr], column: int):
        self.parser, self.scope = parser, scope
        self.items: list[tuple[str, str]] = []
        self.columns: list[int] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                at += len(text[at:]) - len(text[at:].lstrip())
                raise parser.fail(f"cannot read {text[at:]!r}", column + at)
            self.items.append((match.lastgroup, match[match.lastgroup]))
            self.columns.append(column + match.start(match.lastgroup))
            at = match.end()
        self.columns.append(column + len(text))
        self.at = 0

    def fail(self, message: str, at: int | None = None) -> ParseError:
        """An error at token number `at`: by default the next one."""
        return self.parser.fail(message, self.columns[min(self.at if at is None else at, len(self.columns) - 1)])

    def peek(self) -> tuple[str, str]:
        return self.items[self.at] if self.at < len(self.items) else ("end", "end of line")

    def take(self, text: str) -> bool:
        if self.peek()[1] == text:
            self.at += 1
            return True
        return False

    def need(self, text: str) -> None:
        if not self.take(text):
            raise self.fail(f"expected {text!r}, found {self.peek()[1]!r}")

    def done(self) -> None:
        if self.at < len(self.items):
            raise self.fail(f"unexpected {self.peek()[1]!r}")

    def infix(self, level: int) -> tuple:
        if level == _ATOM:
            return self.atom()
        tree = self.infix(level + 1)
        while self.peek()[0] == "sign" and _TURNED.get(self.peek()[1], self.peek()[1]) in _LEVELS[level]:
            symbol, here = self.peek()[1], self.at
            self.at += 1
            operands = [tree, self.infix(level + 1)]
            if symbol in _TURNED:
                symbol, operands = _TURNED[symbol], operands[::-1]
            tree = ("op", _BY_SYMBOL[symbol], operands, here)
            if level == _COMPARE:
                break
        return tree

    def atom(self) -> tuple:
        if self.take("("):
            tree = self.infix(0)
            self.need(")")
            return tree
        here = self.at
        negative = self.take("-")
        kind, word = self.peek()
        if negative and kind != "num":
            return ("op", "neg", [self.atom()], here)
        if kind not in ("num", "word"):
            raise self.fail(f"expected a value, found {word!r}")
        self.at += 1
        if kind == "num":
            return self.number(word, negative, here)
        if word in ("true", "false"):
            return ("expr", const(word == "true", dtypes.bool_))
        if self.take("("):
            return self.call(word, here)
        thing = self.scope.get(word)
        if isinstance(thing, Buffer):
            return self.element(thing)
        if thing is None:
            raise self.fail(f"no {word!r} in scope", here)
        return ("expr", thing)

    def number(self, word: str, negative: bool, here: int) -> tuple:
        value = float(word) if word in ("inf", "nan") or re.search(r"[.e]", word) else int(word)
        dtype = None
        if self.peek()[1] == ":" and self.items[self.at + 1 :][:1] and self.items[self.at + 1][1] in _TYPES:
            dtype = _TYPES[self.items[self.at + 1][1]]
            self.at += 2
        return ("num", -value if negative else value, dtype, here)

    def call(self, name: str, here: int) -> tuple:
        args = [self.infix(0)]
        while self.take(","):
            if name == "bitcast":
                dtype = _TYPES.get(self.peek()[1])
                if dtype is None:
                    raise self.fail("bitcast needs a type")
                self.at += 1
                self.need(")")
                return ("bitcast", dtype, args[0], here)
            args.append(self.infix(0))
        self.need(")")
        if name in _TYPES:
            if len(args) != 1:
                raise self.fail(f"{name} takes 1 operand, got {len(args)}", here)
            return ("cast", _TYPES[name], args[0])
        if name == "bitcast":
            raise self.fail("bitcast needs a type", here)
        arity = {"select": 3, "fma": 3, "exp2": 1}.get(name) or len(PAIRS.get(name, ())) or None
        arity = SCALAR_OPS[name].arity if name in SCALAR_OPS else arity
        if arity is None:
            raise self.fail(f"no operation {name!r}", here)
        if len(args) != arity:
            raise self.fail(f"{name} takes {arity} operands, got {len(args)}", here)
        return ("op", name, args, here)

    def element(self, buffer: Buffer) -> tuple:
        here = self.at - 1
        self.need("[")
        index, predicate = [], None
        while self.peek()[1] not in ("]", "if"):
            index.append(self.infix(0))
            if not self.take(","):
                break
        if self.take("if"):
            predicate = self.infix(0)
        self.need("]")
        if len(index) != len(buffer.shape):
            raise self.fail(f"{buffer.name} has {len(buffer.shape)} axes, got {len(index)} indices", here)
        return ("load", buffer, index, predicate)

    def told(self, tree: tuple) -> DType | None:
        """The type that the text of `tree` tells without help: `_told` for trees."""
        kind = tree[0]
        if kind == "expr":
            return tree[1].dtype
        if kind == "num":
            return tree[2]
        if kind == "load":
            return tree[1].dtype
        if kind in ("cast", "bitcast"):
            return tree[1]
        if tree[1] in PAIRS:
            return dtypes.uint32 if tree[1] == "pair" else dtypes.float32
        row = SCALAR_OPS.get(tree[1])
        if row is not None and row.result != "same":
            return dtypes.by_name(row.result)
        args = tree[2][1:] if tree[1] == "select" else tree[2]
        return next((t for t in map(self.told, args) if t is not None), None)

    def build(self, tree: tuple, expected: DType | None) -> Expr:
        kind = tree[0]
        if kind == "expr":
            return tree[1]
        if kind == "num":
            value, dtype = tree[1], tree[2] or expected
            dtype = dtype or (dtypes.int64 if isinstance(value, int) else dtypes.float32)
            if isinstance(value, float) and not dtype.is_float:
                raise self.fail(f"{value!r} is no {dtype.name}", tree[3])
            if isinstance(value, int) and not dtype.is_float:
                low, high = dtypes.limits(dtype)
                if not low <= value <= high:
                    raise self.fail(f"{value!r} is no {dtype.name}", tree[3])
            return const(value, dtype)
        if kind == "load":
            predicate = None if tree[3] is None else self.build(tree[3], dtypes.bool_)
            return load(tree[1], *(self.build(i, dtypes.int64) for i in tree[2]), predicate=predicate)
        if kind == "cast":
            return op(kind, self.build(tree[2], None), dtype=tree[1])
        if kind == "bitcast":
            x = self.build(tree[2], None)
            if x.dtype.itemsize != tree[1].itemsize:
                raise self.fail(f"bitcast: {x.dtype.short} and {tree[1].short} differ in width", tree[3])
            return op(kind, x, dtype=tree[1])
        _, name, args, here = tree
        types = _operand_types(name, expected, [self.told(a) for a in args])
        operands = [self.build(a, t) for a, t in zip(args, types, strict=True)]
        self.check(name, [e.dtype for e in operands], here)
        return op(name, *operands)

    def check(self, name: str, types: list[DType], here: int) -> None:
        """Operands that the operation is not defined for are an error."""
        if name == "select":
            wrong = types[0] is not dtypes.bool_ or types[1] is not types[2]
        elif name == "exp2":
            wrong = types[0] is not dtypes.float32
        elif name == "fma":
            wrong = len(set(types)) > 1 or not types[0].is_float
        elif name in PAIRS:
            wrong = tuple(types) != PAIRS[name]
        else:
            wrong = len(set(types)) > 1 or types[0].kind not in SCALAR_OPS[name].kinds
        if wrong:
            raise self.fail(f"{name} is not defined for ({', '.join(t.short for t in types)})", here)
