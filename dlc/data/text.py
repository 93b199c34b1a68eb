"""Text as numbered tokens: vocabularies, the two ways of cutting a text into batches, and where texts come from."""

from __future__ import annotations

import io
import os
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from dlc.base.files import open_regular
from dlc.data.dataset import Dataset, TensorDataset
from dlc.data.download import fetch_file
from dlc.data.errors import DatasetError
from dlc.data.mnist import data_folder
from dlc.frontend.core.location import Located

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PYTHON_CHARACTERS = 1_500_000


class Vocabulary(Located):
    """The tokens that a model knows; a token's number is its place.

    Args:
        tokens: characters or words, each once.
        unknown: the token, one of these, that stands for all others; without it others are an error.
    """

    def __init__(self, tokens: Sequence[str], unknown: str | None = None) -> None:
        self.tokens = list(tokens)
        self.numbers = {token: k for k, token in enumerate(self.tokens)}
        if len(self.numbers) != len(self.tokens):
            raise ValueError(f"Vocabulary: {len(self.tokens) - len(self.numbers)} tokens appear twice")
        if unknown is not None and unknown not in self.numbers:
            raise ValueError(f"Vocabulary: the unknown token {unknown!r} is none of the tokens")
        self.unknown = unknown

    @classmethod
    def of(cls, text: Iterable[str], unknown: str | None = None) -> Vocabulary:
        """All tokens of a text in alphabetical order, and `unknown`. A string is a text of characters."""
        return cls(sorted({*text} | ({unknown} if unknown is not None else set())), unknown)

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: Iterable[str]) -> np.ndarray:
        """int64 (N,): the numbers of a text's tokens. Raises ValueError naming the first that has none."""
        other = None if self.unknown is None else self.numbers[self.unknown]
        try:
            found = [self.numbers[t] if other is None else self.numbers.get(t, other) for t in text]
        except KeyError as error:
            raise ValueError(f"the vocabulary of {len(self)} tokens has no {error.args[0]!r}") from None
        return np.array(found, np.int64)

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The tokens with the given numbers."""
        return [self.tokens[number] for number in numbers]


def time_steps(tokens: np.ndarray, columns: int) -> TensorDataset:
    """A text (N,) as `columns` parts of equal length that are read side by side, for recurrent networks.

    Sample t is (the tokens at t, those after them), each (columns,). A DataLoader with `batch_size=L, drop_last=True`
    and no shuffling gives segments (L, columns), each of which goes on where the one before it ended. What does not
    fill the last row is left out.
    """
    length = (len(tokens) - 1) // columns
    if length < 1:
        raise DatasetError(f"a text of {len(tokens)} tokens is too short for {columns} columns")
    inputs, following = tokens[: length * columns], tokens[1 : length * columns + 1]
    return TensorDataset(*(np.ascontiguousarray(part.reshape(columns, length).T) for part in (inputs, following)))


class Windows(Dataset):
    """All pieces of a text (N,) that begin `stride` apart: sample i is (`length` tokens from i * stride, those after
    them), each (length,)."""

    def __init__(self, tokens: np.ndarray, length: int, stride: int = 1) -> None:
        if len(tokens) <= length:
            raise DatasetError(f"a text of {len(tokens)} tokens is too short for windows of {length} and one more")
        self.tokens, self.length, self.stride = tokens, length, stride

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        index = range(len(self))[index]
        inputs, following = self.__getitems__(np.array([index]))
        return inputs[0], following[0]

    def __getitems__(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self.tokens[indices[:, None] * self.stride + np.arange(self.length + 1)]
        return rows[:, :-1], rows[:, 1:]


def read_text(path: str | os.PathLike[str]) -> str:
    """A text file, or all those of a folder and its subfolders in the order of their paths, joined by line ends.

    Text is UTF-8. In a folder, hidden files and files that are not text are passed over.

    Raises:
        DatasetError: there is no such file or folder, or no text in it.
    """
    path = Path(path)
    try:
        if not os.path.isdir(path):
            return _not_empty(path, _content(path))
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and not _is_hidden(file, path)]
        return _not_empty(path, "\n".join(filter(None, map(_text_of, files))))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from None


def python_sources(characters: int = PYTHON_CHARACTERS) -> str:
    """Source files of Python's standard library, as many whole ones as give at most so many characters.

    These are the modules next to `abc.py` that are plain ASCII, in alphabetical order: text that is there without a
    download. It differs a little between versions of Python.
    """
    parts: list[str] = []
    room = characters
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text("utf-8")
        if text.isascii() and len(text) <= room:
            parts.append(text)
            room -= len(text)
    return _not_empty(Path(sysconfig.get_path("stdlib")), "".join(parts))


def tiny_shakespeare(root: str | os.PathLike[str] | None = None, download: bool = False) -> str:
    """1,115,394 characters of Shakespeare's plays (Karpathy 2015).

    `root` is the folder that holds input.txt, by default `$DLC_DATA/tinyshakespeare` or
    `~/.cache/dlc/data/tinyshakespeare`. `download` fetches it if it is missing (needs the extra `models`).
    """
    path = (Path(root) if root is not None else data_folder() / "tinyshakespeare") / "input.txt"
    if download:
        fetch_file("tiny Shakespeare", SHAKESPEARE, path, f"sha256:{SHAKESPEARE_SHA256}")
    if not os.path.exists(path):
        raise DatasetError(f"{path} is missing: load it with download=True, or set DLC_DATA to the folder with "
                           "tinyshakespeare/input.txt")
    return read_text(path)


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _content(file: Path) -> str:
    with io.TextIOWrapper(open_regular(file), "utf-8") as opened:
        return opened.read()


def _text_of(file: Path) -> str | None:
    try:
        return _content(file)
    except UnicodeDecodeError:
        return None


def _not_empty(path: Path, text: str) -> str:
    if not text:
        raise DatasetError(f"{path} has no text")
    return text
