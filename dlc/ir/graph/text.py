"""The text form of the Graph IR: `print_graph` and its inverse `parse_graph`.

    graph main(%x: f32[100,784], %w: f32[100,784]) {
      %0: f32[100,100] = contract(%x, %w) dtype=f32 spec="mk,nk->mn"  # train.py:12
      return %0
    }

One node a line, inputs first; `#` starts a comment, which holds the user's source line. Parameters keep their names
where these are unique. The body of a loop stands behind its node, in braces, with names of its own. Attribute values
are numbers, true and false, "strings", [lists], dtypes (f32) and graphs. `uid` numbers are made anew by the parser.
A string of several lines (the kernel of a `call`) stands between triple quotes, indented.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from dlc.base.errors import DlcError, ParseError
from dlc.ir import dtypes
from dlc.ir.dtypes import DType
from dlc.ir.graph.graph import Graph, Node, TensorType, make, param, unique
from dlc.ir.graph.table import OPS

# --------------------------------------------------------------------------------------------------------- printing

_NAME = re.compile(r"[A-Za-z_][\w.]*")


def print_graph(graph: Graph, locs: bool = True) -> str:
    """The text of `graph`; without the source lines if `locs` is false."""
    return "\n".join(_graph_lines(graph, "", locs))


def type_text(type: Any) -> str:
    """'f32[2,3]', or '(f32[2], i64[2])' for several results."""
    return str(type) if isinstance(type, TensorType) else f"({', '.join(map(str, type))})"


def describe(node: Node) -> str:
    """One node in a few words for error messages, with the user's line if it is known."""
    inputs = ", ".join(type_text(i.type) for i in node.inputs)
    loc = f" from {node.loc}" if node.loc else ""
    return f"{node.op}({inputs}) {_attributes(node)}".rstrip() + f" : {type_text(node.type)}{loc}"


def _param_names(params: tuple[Node, ...]) -> list[str]:
    wanted = [p.attrs["name"] if _NAME.fullmatch(p.attrs["name"]) else "" for p in params]
    taken = set(wanted)
    out: list[str] = []
    for k, name in enumerate(wanted):
        if not name or wanted.count(name) > 1:
            stem = name or "p"
            name = f"{stem}{k}"
            while name in taken:
                name += "_"
            taken.add(name)
        out.append(f"%{name}")
    return out


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, DType):
        return value.short
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return str(value)


def _attributes(node: Node) -> str:
    return " ".join(f"{k}={_value(v)}" for k, v in sorted(node.attrs.items()) if k not in _apart(node))


def _apart(node: Node) -> list[str]:
    """The attributes that stand behind the others, in lines of their own (or nowhere: `batching` is no text)."""
    return [k for k, v in sorted(node.attrs.items()) if isinstance(v, Graph) or k == "batching" or _is_page(v)]


def _is_page(value: Any) -> bool:
    return isinstance(value, str) and "\n" in value and '"""' not in value and "\\" not in value


def _placement(p: Node) -> str:
    """Where the elements of a parameter of `each` lie, if not one after the other."""
    return f" strides={_value(p.attrs['strides'])}" if "strides" in p.attrs else ""


def _graph_lines(graph: Graph, indent: str, locs: bool) -> Iterator[str]:
    names: dict[Node, str] = dict(zip(graph.params, _param_names(graph.params), strict=True))
    params = ", ".join(f"{names[p]}: {p.type}{_placement(p)}" for p in graph.params)
    name = graph.name if _NAME.fullmatch(graph.name) else re.sub(r"\W", "_", f"_{graph.name}")
    yield f"{indent}graph {name}({params}) {{"
    inner = indent + "  "
    for node in graph.nodes():
        if node in names:
            continue
        ins = ", ".join(names.get(i, "%?") for i in node.inputs)  # a broken graph prints too, for the verifier's sake
        names[node] = f"%{len(names) - len(graph.params)}"
        text = f"{inner}{names[node]}: {type_text(node.type)} = {node.op}({ins})"
        if attributes := _attributes(node):
            text += f" {attributes}"
        comment = f"  # {node.loc}" if locs and node.loc else ""
        bodies = [(k, node.attrs[k]) for k in _apart(node) if k != "batching"]
        if not bodies:
            yield text + comment
        for k, (name, body) in enumerate(bodies):
            if isinstance(body, str):
                head, *rest = ['"""', *textwrap.indent(body.rstrip("\n"), inner + "  ").split("\n")]
                last = inner + '"""'
            else:
                head, *rest, last = _graph_lines(body, inner, locs)
            yield f"{text} {name}={head.lstrip()}"
            yield from rest
            text = last
            if k == len(bodies) - 1:
                yield text + comment
    yield f"{inner}return {', '.join(names.get(o, '%?') for o in graph.outputs)}"
    yield f"{indent}}}"


# ---------------------------------------------------------------------------------------------------------- parsing

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)|(?P<line>\n)|(?P<value>%[\w.]+)|(?P<page>\"{3}.*?\"{3})
    |(?P<text>"(?:[^"\\\n]|\\.)*")
    |(?P<number>-?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|inf\b|nan\b))|(?P<word>[A-Za-z_][\w.]*)|(?P<mark>[(){}\[\],:=])""",
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def _tokens(text: str) -> list[_Token]:
    out, at, line = [], 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ParseError(f"line {line}: unexpected {text[at]!r}")
        if match.lastgroup == "line":
            line += 1
        elif match.lastgroup != "space":
            out.append(_Token(match.lastgroup, match.group(), line))
            line += match.group().count("\n")
        at = match.end()
    out.append(_Token("end", "end of text", line))
    return out


def parse_graph(text: str) -> Graph:
    """The graph that `text` describes. Raises ParseError, which names the line, for text that is not a valid graph."""
    parser = _Parser(_tokens(text))
    graph = parser.graph()
    if parser.token.kind != "end":
        parser.fail(f"unexpected {parser.token.text!r} after the graph")
    return graph


class _Parser:
    """Recursive descent; every method reads one thing at the current token."""

    def __init__(self, tokens: list[_Token]):
        self.tokens = tokens
        self.at = 0
        self.uids: dict[int, int] = {}

    @property
    def token(self) -> _Token:
        return self.tokens[self.at]

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        raise ParseError(f"line {line or self.token.line}: {message}")

    def take(self, kind: str, text: str | None = None) -> str:
        token = self.token
        if token.kind != kind or (text is not None and token.text != text):
            self.fail(f"expected {text or kind}, found {token.text!r}")
        self.at += 1
        return token.text

    def accept(self, mark: str) -> bool:
        if self.token.text == mark and self.token.kind in ("mark", "word"):
            self.at += 1
            return True
        return False

    def listed(self, close: str, read) -> list:
        """Items separated by commas up to `close`."""
        out: list = []
        while not self.accept(close):
            if out:
                self.take("mark", ",")
            out.append(read())
        return out

    def graph(self) -> Graph:
        self.take("word", "graph")
        name = self.take("word")
        self.take("mark", "(")
        values: dict[str, Node] = {}
        params = self.listed(")", lambda: self.parameter(values))
        self.take("mark", "{")
        while not self.accept("return"):
            self.statement(values)
        outputs = []
        while not self.accept("}"):
            if outputs:
                self.take("mark", ",")
            outputs.append(self.operand(values))
        return Graph(params, outputs, name)

    def parameter(self, values: dict[str, Node]) -> Node:
        line = self.token.line
        name = self.take("value")
        self.take("mark", ":")
        type_, attrs = self.tensor_type(), {}
        if self.accept("strides"):
            self.take("mark", "=")
            attrs["strides"] = self.value()
        node = param(type_, name[1:], **attrs)
        return self.define(values, name, node, line)

    def define(self, values: dict[str, Node], name: str, node: Node, line: int) -> Node:
        if name in values:
            self.fail(f"{name} is defined twice", line)
        values[name] = node
        return node

    def operand(self, values: dict[str, Node]) -> Node:
        line = self.token.line
        name = self.take("value")
        if name not in values:
            self.fail(f"{name} is not defined", line)
        return values[name]

    def statement(self, values: dict[str, Node]) -> None:
        line = self.token.line
        name = self.take("value")
        self.take("mark", ":")
        declared = self.type()
        self.take("mark", "=")
        op = self.take("word")
        if op not in OPS:
            self.fail(f"unknown operation {op}", line)
        self.take("mark", "(")
        ins = self.listed(")", lambda: self.operand(values))
        attrs: dict[str, Any] = {}
        while self.token.kind == "word" and self.tokens[self.at + 1].text == "=":
            key = self.take("word")
            self.take("mark", "=")
            attrs[key] = self.value()
        if "uid" in attrs:
            attrs["uid"] = self.uids.setdefault(attrs["uid"], unique())
        try:
            node = make(op, ins, **attrs)
        except DlcError as e:
            self.fail(str(e), line)
        except (KeyError, TypeError, ValueError, IndexError) as e:
            self.fail(f"{op}: missing or malformed attribute or operand ({e})", line)
        if node.type != declared:
            self.fail(f"{name} is declared {type_text(declared)}, but is {type_text(node.type)}", line)
        self.define(values, name, node, line)

    def type(self) -> Any:
        return tuple(self.listed(")", self.tensor_type)) if self.accept("(") else self.tensor_type()

    def tensor_type(self) -> TensorType:
        dtype = self.dtype(self.take("word"))
        self.take("mark", "[")
        return TensorType(dtype, tuple(self.listed("]", self.extent)))

    def extent(self) -> int:
        text = self.take("number")
        if not text.isdigit():
            self.fail(f"{text} is not an extent")
        return int(text)

    def dtype(self, word: str) -> DType:
        try:
            return dtypes.by_name(word)
        except KeyError:
            self.fail(f"{word} is not a dtype")

    def value(self) -> Any:
        kind, text, _ = self.token
        if text == "graph":
            return self.graph()
        if self.accept("["):
            return tuple(self.listed("]", self.value))
        if kind == "page":
            self.at += 1
            return textwrap.dedent(text[3:-3]).strip("\n ") + "\n"
        if kind == "text":
            self.at += 1
            return json.loads(text)
        if kind == "number":
            self.at += 1
            return int(text) if re.fullmatch(r"-?\d+", text) else float(text)
        word = self.take("word")
        return word == "true" if word in ("true", "false") else self.dtype(word)


Graph.__repr__ = print_graph  # type: ignore[method-assign, assignment]
