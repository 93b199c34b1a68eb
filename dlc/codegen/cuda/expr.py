"""Loop IR expressions as C expressions.

Index arithmetic is int64 in the Loop IR; where intervals prove that a value and its operands fit into 32 bits it is
written in `int`, which is much faster on a GPU. Loads and what a run of statements uses more than once get names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from dlc.base.errors import DlcError
from dlc.codegen.cuda.types import ctype, literal
from dlc.codegen.cuda.writer import Value, Writer
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.loops.interval import interval, wraps
from dlc.ir.loops.ir import Buffer, Expr, load_parts, sums_products


class EmitError(DlcError):
    """A kernel that the CUDA emitter cannot express."""


_INT32 = (-(1 << 31), (1 << 31) - 1)
_LONG = 90  # longer texts get a name
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=",
          "and": "&", "or": "|", "xor": "^"}  # fmt: skip
_COMPARE = frozenset(("eq", "ne", "lt", "le"))

# float functions: the name for double; float appends an f
_FLOAT = {
    "abs": "fabs", "floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint", "sqrt": "sqrt",
    "rsqrt": "rsqrt", "exp": "exp", "expm1": "expm1", "log": "log", "log2": "log2", "log1p": "log1p", "sin": "sin",
    "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh", "erf": "erf", "pow": "pow",
    "atan2": "atan2",
}  # fmt: skip


class Expressions:
    """Writes expressions."""

    def __init__(self, writer: Writer) -> None:
        self.w = writer
        self._scopes = writer.scopes
        self.axis_type: dict[Expr, str] = {}
        self._uses: Counter[Expr] = Counter()
        self._read: dict[Expr, frozenset[Buffer]] = {}

    # what is known

    def _known(self, e: Expr) -> Value | None:
        for scope in reversed(self._scopes):
            if e in scope.values:
                return scope.values[e]
        return None

    def buffers_read(self, e: Expr) -> frozenset[Buffer]:
        found = self._read.get(e)
        if found is None:
            found = frozenset().union(*(self.buffers_read(a) for a in e.args))
            if e.op == "load":
                found |= {e.attr}
            self._read[e] = found
        return found

    def forget(self, buffers: Iterable[Buffer]) -> None:
        """Values read from these buffers are no longer current."""
        gone = set(buffers)
        for scope in self._scopes:
            stale = [e for e in scope.values if not gone.isdisjoint(self.buffers_read(e))]
            for e in stale:
                del scope.values[e]

    def count(self, roots: Iterable[Expr]) -> None:
        """Note how often the coming statements use each subexpression."""
        self._uses = Counter()
        seen: set[Expr] = set()
        stack = list(roots)
        self._uses.update(stack)
        while stack:
            e = stack.pop()
            if e in seen:
                continue
            seen.add(e)
            self._uses.update(e.args)
            stack.extend(e.args)

    def ctype(self, e: Expr) -> str:
        """The C type that an expression is computed in."""
        if e.op == "axis":
            return self.axis_type.get(e, "int")
        if e.dtype is dtypes.int64 and e.op not in ("load", "bitcast"):
            low, high = interval(e)
            if _INT32[0] <= low and high <= _INT32[1]:
                return "int"
        return ctype(e.dtype)

    # expressions

    def text(self, e: Expr, wanted: str | None = None) -> str:
        """C text of an expression, converted to the C type `wanted`."""
        text, have = self.value(e)
        return text if wanted is None or wanted == have or e.op == "const" else f"({wanted}){text}"

    def bare(self, e: Expr, wanted: str | None = None) -> str:
        """The same without parentheses around the whole."""
        return _bare(self.text(e, wanted))

    def value(self, root: Expr) -> Value:
        stack: list[Expr] = [root]
        made: dict[Expr, Value] = {}

        def get(e: Expr) -> Value | None:
            return made.get(e) or self._known(e)

        while stack:
            e = stack[-1]
            if get(e) is not None:
                stack.pop()
                continue
            missing = [a for a in e.args if get(a) is None]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            made[e] = self._named(e, self._write(e, get))
        found = get(root)
        assert found is not None
        return found

    def _named(self, e: Expr, value: Value) -> Value:
        """Give the value a name if it is used again, long, or a load from memory."""
        text, type_ = value
        memory = e.op == "load" and e.attr.space != "reg"
        again = self._uses[e] > 1 and e.op not in ("const", "axis") and not (e.op == "load" and not memory)
        if not (memory or again or len(text) > _LONG):
            return value
        name = self.w.name(None, f"{self.w.names.get(e.attr, 'x')}_" if memory else "t")
        self.w.line(f"const {type_} {name} = {_bare(text)};")
        self._scopes[-1].values[e] = (name, type_)
        return name, type_

    def _write(self, e: Expr, get: Callable[[Expr], Value | None]) -> Value:
        """The C text of one operation on values that `get` knows."""
        type_ = self.ctype(e)
        if e.op == "const":
            if type_ == "int" and e.dtype is dtypes.int64:
                return literal(e.attr, dtypes.int32), type_
            return literal(e.attr, e.dtype), type_
        if e.op == "axis":
            return self.w.names[e], type_
        if e.op == "load":
            return self._load(e, get), type_
        args = [get(a) for a in e.args]
        if e.op == "cast":
            return self._cast(args[0], e.args[0].dtype, e.dtype, type_), type_
        if e.op == "bitcast":
            return f"bits<{type_}>({_bare(args[0][0])})", type_
        if e.op == "select":
            a, b = (_as(x, type_) for x in args[1:])
            return f"({args[0][0]} ? {a} : {b})", type_
        if e.op == "exp2":
            return _call("exp2_of", [args[0][0]]), type_
        if e.op == "fma":
            fn = "fmaf" if e.dtype is dtypes.float32 else "fma"
            return f"{fn}({', '.join(_bare(a[0]) for a in args)})", type_
        operand = e.args[0].dtype
        if operand is dtypes.int64:
            return self._int64(e, args, type_), type_
        texts = [a[0] for a in args]
        if sums_products(e):  # these functions are not fused with their operands
            return _call(f"__{'f' if operand is dtypes.float32 else 'd'}{e.op}_rn", texts), type_
        if operand.is_float:
            return _of_float(e.op, texts, operand), type_
        if operand.is_bool:
            return _of_bool(e.op, texts), type_
        return _of_int(e.op, texts, operand), type_

    def _int64(self, e: Expr, args: list[Value], type_: str) -> str:
        """An operation on 64-bit integers, in `int` where its operands are."""
        narrow = all(t == "int" for _, t in args)
        within = "int" if narrow and (type_ == "int" or e.op in _COMPARE) else "long long"
        texts = [_as(a, within) for a in args]
        ranges = [interval(a) for a in e.args]
        op = e.op
        if op in ("add", "sub", "mul") and (within == "int" or not wraps(e)):
            out = f"({texts[0]} {_INFIX[op]} {texts[1]})"
        elif op == "neg" and within == "int":
            out = f"(-{texts[0]})"
        elif op in ("floordiv", "mod") and ranges[0][0] >= 0 and ranges[1][0] > 0:
            out = f"{'udiv' if op == 'floordiv' else 'umod'}({_bare(texts[0])}, {_bare(texts[1])})"
        elif op in ("max", "min"):
            out = f"{op}({_bare(texts[0])}, {_bare(texts[1])})"
        elif op in _COMPARE:
            return f"({texts[0]} {_INFIX[op]} {texts[1]})"
        else:
            if within == "int":
                texts = [_as(a, "long long") for a in args]
                within = "long long"
            out = _of_int(op, texts, dtypes.int64)
        return out if within == type_ or e.dtype is not dtypes.int64 else f"({type_}){out}"

    def _load(self, e: Expr, get: Callable[[Expr], Value | None]) -> str:
        buffer, index, predicate = load_parts(e)
        place = self.place(buffer, index)
        if predicate is None:
            return place
        condition = get(predicate)
        assert condition is not None
        return f"({condition[0]} ? {place} : {literal(0, buffer.dtype)})"

    def place(self, buffer: Buffer, index: tuple[Expr, ...]) -> str:
        """The element of a buffer; reg and shared ones are arrays of arrays."""
        if buffer.swizzled and not (index[-1].op == "const" and index[-1].attr == 0):
            return f"*({self.address(buffer, index)})"
        return self.w.names[buffer] + self.subscripts(index)

    def address(self, b: Buffer, index: Sequence[Expr]) -> str:
        """A pointer to an element."""
        outer, last = self.subscripts(index[:-1]), self.bare(index[-1])
        if b.swizzled:
            last = f"swizzled({self.bare(index[-2])}, {last}, {ctype(b.dtype)}())"
        return f"{self.w.names[b]}{outer} + {last}"

    def subscripts(self, index: Sequence[Expr]) -> str:
        return "".join(f"[{self.bare(i)}]" for i in index)

    def _cast(self, x: Value, source: DType, target: DType, type_: str) -> str:
        text = x[0]
        if target.is_bool:
            if source.is_half:
                text = f"to_float({_bare(text)})"
            return f"({text} != {literal(0, source.compute)})"
        if source.is_half:
            text, source = f"to_float({_bare(text)})", dtypes.float32
            if target is dtypes.float32:
                return text
        if target.is_half:
            if source.is_int and source.bits > 16:  # a float would round it a first time
                text = f"(double){text}"
            elif not source.is_float:
                text = f"(float){text}"
            return f"to_{ctype(target)}({_bare(text)})"
        if source.is_float and target.is_int:
            low, high = dtypes.limits(target)
            bounds = f"{literal(low, source)}, {literal(high, source)}, {literal(low, target)}, {literal(high, target)}"
            return f"to_int<{ctype(target)}>({_bare(text)}, {_bare(bounds)})"
        return text if x[1] == type_ else f"({type_}){text}"


def _as(x: Value, type_: str) -> str:
    return x[0] if x[1] == type_ else f"({type_}){x[0]}"


def _bare(text: str) -> str:
    """Without parentheses that enclose the whole text."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for k, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and k < len(text) - 1:
            return text
    return text[1:-1]


def _call(fn: str, texts: list[str]) -> str:
    return f"{fn}({', '.join(map(_bare, texts))})"


def _of_float(op: str, texts: list[str], dtype: DType) -> str:
    if dtype.is_half:
        raise EmitError(f"{op} is computed in float32, not {dtype.name}")
    if op in _INFIX:
        return f"({texts[0]} {_INFIX[op]} {texts[1]})"
    if op == "neg":
        return f"(-{texts[0]})"
    if op in ("max", "min"):
        return _call(f"{op}_of", texts)
    if op in ("sign", "sigmoid"):
        return _call(f"{op}_of", texts)
    if op in ("floordiv", "mod"):
        return _call("floor_div_float" if op == "floordiv" else "floor_mod_float", texts)
    return _call(_FLOAT[op] + ("f" if dtype is dtypes.float32 else ""), texts)


def _of_bool(op: str, texts: list[str]) -> str:
    if op == "not":
        return f"(!{texts[0]})"
    if op in ("max", "or"):
        return f"({texts[0]} | {texts[1]})"
    if op in ("min", "and"):
        return f"({texts[0]} & {texts[1]})"
    return f"({texts[0]} {_INFIX[op]} {texts[1]})"


def _of_int(op: str, texts: list[str], dtype: DType) -> str:
    """Wrapping arithmetic: signed overflow is undefined in C, so it is done without signs and converted back."""
    own = ctype(dtype)
    wide = "unsigned long long" if dtype.bits == 64 else "unsigned"
    if op in ("add", "sub", "mul"):
        return f"({own})(({wide}){texts[0]} {_INFIX[op]} ({wide}){texts[1]})"
    if op in _COMPARE:
        return f"({texts[0]} {_INFIX[op]} {texts[1]})"
    if op in ("and", "or", "xor"):
        return f"({own})({texts[0]} {_INFIX[op]} {texts[1]})"
    if op == "neg":
        return f"({own})(({wide})0 - ({wide}){texts[0]})"
    if op == "abs":
        if dtype.kind == "u":
            return texts[0]
        return f"({own})({texts[0]} < 0 ? ({wide})0 - ({wide}){texts[0]} : ({wide}){texts[0]})"
    if op == "not":
        return f"({own})(~{texts[0]})"
    if op in ("max", "min"):
        return f"{op}_of<{own}>({_bare(texts[0])}, {_bare(texts[1])})"
    if op == "sign":
        return _call("sign_of", texts)
    if op in ("floordiv", "mod"):
        return f"floor_{'div' if op == 'floordiv' else 'mod'}<{own}>({_bare(texts[0])}, {_bare(texts[1])})"
    if op in ("shl", "shr"):
        fn = "shift_left" if op == "shl" else "shift_right"
        return f"{fn}<{own}, {own}>({_bare(texts[0])}, {_bare(texts[1])}, {dtype.bits})"
    if op == "threefry":
        return _call("threefry", texts)
    raise EmitError(f"no C for {op} of {dtype.name}")
