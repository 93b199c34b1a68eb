"""Colours for a terminal, plain text for a pipe."""

from __future__ import annotations

import sys

import click
from pygments.lexer import Lexer, RegexLexer, words
from pygments.lexers import DiffLexer, GasLexer
from pygments.lexers.asm import LlvmLexer
from pygments.lexers.c_like import CudaLexer
from pygments.token import Comment, Keyword, Name, Number, Operator, Punctuation, String, Text
from rich.console import Console
from rich.syntax import Syntax

_TYPES = r"\b(?:bool|bf16|f16|f32|f64|i8|i16|i32|i64|u8|u16|u32|u64)\b"
_COMMON = [
    (r"#[^\n]*", Comment),
    (r'"(?:[^"\\\n]|\\.)*"', String),
    (_TYPES, Keyword.Type),
    (r"\b(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|inf|nan)\b", Number),
]
_REST = [(r"[A-Za-z_][\w.]*", Name), (r"[-+*/%<>=!&|^]+", Operator), (r"[()\[\]{}:,.]", Punctuation), (r"\s+|.", Text)]


class GraphLexer(RegexLexer):
    """The text of the Graph IR."""

    name = "dlc graph"
    tokens = {
        "root": [
            (r"%[\w.]+", Name.Variable),
            (words(("graph", "return"), prefix=r"\b", suffix=r"\b"), Keyword),
            (r"(?<== )[a-z]\w*(?=\()", Name.Function),
            *_COMMON,
            *_REST,
        ]
    }


class LoopsLexer(RegexLexer):
    """The text of the Loop IR."""

    name = "dlc loops"
    _statements = ("kernel", "for", "in", "of", "if", "else", "alloc", "let", "scope", "pass", "sync", "writes")
    _kinds = ("serial", "unroll", "vector", "parallel", "grid", "warp", "lane", "pipeline", "reg", "shared")
    tokens = {
        "root": [
            (words(_statements, prefix=r"\b", suffix=r"\b"), Keyword),
            (words(_kinds, prefix=r"\b", suffix=r"\b"), Name.Decorator),
            *_COMMON,
            (r"[a-z]\w*(?=\()", Name.Function),
            *_REST,
        ]
    }


_LEXERS: dict[str, type[Lexer]] = {
    "graph": GraphLexer,
    "loops": LoopsLexer,
    "llvm": LlvmLexer,
    "asm": GasLexer,
    "ptx": GasLexer,
    "cuda": CudaLexer,
    "diff": DiffLexer,
}


def show(text: str, language: str | None = None) -> None:
    """Print `text`; coloured where stdout is a terminal. `language` is a key of _LEXERS or None."""
    lexer = _LEXERS.get(language or "")
    if lexer is None or not sys.stdout.isatty():
        click.echo(text.rstrip("\n"))
        return
    console = Console()
    console.print(Syntax(text.rstrip("\n"), lexer(), theme="ansi_dark", background_color="default", word_wrap=False),
                  soft_wrap=True)
