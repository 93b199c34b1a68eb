"""Expressions of Loop IR read from text: the tokens of a line, trees of them, and typed expressions."""

from __future__ import annotations

import re
from collections.abc import Callable

from dlc.base.errors import ParseError
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.loops.ir import ALIKE, PAIRS, Buffer, Expr, const, load, op
from dlc.ir.loops.syntax import ATOM, BY_SYMBOL, COMPARE, LEVELS, TYPES, operand_types
from dlc.ir.quadrants import PARTS
from dlc.ir.scalar import SCALAR_OPS

_TOKEN = re.compile(
    r"\s*(?:(?P<num>\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|\d+|(?:inf|nan)\b)|(?P<word>[^\W\d]\w*)"
    r"|(?P<sign><<|>>|//|==|!=|<=|>=|[-+*/%&|^<>()\[\],:]))"
)
_TURNED = {">": "<", ">=": "<="}

Error = Callable[[str, int], ParseError]
"""Makes the error for a message and the column that it is about."""


class Tokens:
    """One line's tokens; `infix` and `atom` read a tree of tuples, `build` turns it into typed expressions.

    Trees: ("expr", e), ("num", value, dtype or None), ("load", buffer, indices, predicate), ("cast", dtype, x),
    ("bitcast", dtype, x), ("op", name, operands).
    """

    def __init__(self, error: Error, text: str, scope: dict[str, Buffer | Expr], column: int):
        self.error, self.scope = error, scope
        self.items: list[tuple[str, str]] = []
        self.columns: list[int] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                at += len(text[at:]) - len(text[at:].lstrip())
                raise error(f"cannot read {text[at:]!r}", column + at)
            self.items.append((match.lastgroup, match[match.lastgroup]))
            self.columns.append(column + match.start(match.lastgroup))
            at = match.end()
        self.columns.append(column + len(text))
        self.at = 0

    def fail(self, message: str, at: int | None = None) -> ParseError:
        """An error at token number `at`: by default the next one."""
        return self.error(message, self.columns[min(self.at if at is None else at, len(self.columns) - 1)])

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
        if level == ATOM:
            return self.atom()
        tree = self.infix(level + 1)
        while self.peek()[0] == "sign" and _TURNED.get(self.peek()[1], self.peek()[1]) in LEVELS[level]:
            symbol, here = self.peek()[1], self.at
            self.at += 1
            operands = [tree, self.infix(level + 1)]
            if symbol in _TURNED:
                symbol, operands = _TURNED[symbol], operands[::-1]
            tree = ("op", BY_SYMBOL[symbol], operands, here)
            if level == COMPARE:
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
        if self.peek()[1] == ":" and self.items[self.at + 1 :][:1] and self.items[self.at + 1][1] in TYPES:
            dtype = TYPES[self.items[self.at + 1][1]]
            self.at += 2
        return ("num", -value if negative else value, dtype, here)

    def call(self, name: str, here: int) -> tuple:
        args = [self.infix(0)]
        while self.take(","):
            if name == "bitcast":
                dtype = TYPES.get(self.peek()[1])
                if dtype is None:
                    raise self.fail("bitcast needs a type")
                self.at += 1
                self.need(")")
                return ("bitcast", dtype, args[0], here)
            args.append(self.infix(0))
        self.need(")")
        if name in TYPES:
            if len(args) != 1:
                raise self.fail(f"{name} takes 1 operand, got {len(args)}", here)
            return ("cast", TYPES[name], args[0])
        if name == "bitcast":
            raise self.fail("bitcast needs a type", here)
        arity = 3 if name == "select" else ALIKE.get(name) or len(PAIRS.get(name, ())) or None
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
        types = operand_types(name, expected, [self.told(a) for a in args])
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
        elif name in PARTS:
            wrong = any(t is not dtypes.float64 for t in types)
        elif name in PAIRS:
            wrong = tuple(types) != PAIRS[name]
        else:
            wrong = len(set(types)) > 1 or types[0].kind not in SCALAR_OPS[name].kinds
        if wrong:
            raise self.fail(f"{name} is not defined for ({', '.join(t.short for t in types)})", here)
