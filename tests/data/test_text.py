"""Texts as tokens: vocabularies, segments and windows, and where texts come from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dlc.data import (
    DataLoader,
    DatasetError,
    Vocabulary,
    Windows,
    numpy_collate,
    penn_treebank,
    python_sources,
    read_text,
    time_steps,
    tiny_shakespeare,
)

DATA = Path(os.environ.get("DLC_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_shakespeare = pytest.mark.skipif(not (DATA / "tinyshakespeare").is_dir(), reason="no tinyshakespeare")
needs_ptb = pytest.mark.skipif(not (DATA / "ptb").is_dir(), reason="no ptb")


def test_vocabulary_of_characters():
    vocabulary = Vocabulary.of("hello")
    assert vocabulary.tokens == ["e", "h", "l", "o"]
    numbers = vocabulary.encode("hole")
    assert numbers.tolist() == [1, 3, 2, 0] and numbers.dtype == np.int64
    assert "".join(vocabulary.decode(numbers)) == "hole"
    with pytest.raises(ValueError, match="the vocabulary of 4 tokens has no 'x'"):
        vocabulary.encode("helx")


def test_vocabulary_with_an_unknown_token():
    vocabulary = Vocabulary.of("a b a".split(), unknown="<unk>")
    assert vocabulary.tokens == ["<unk>", "a", "b"]
    assert vocabulary.decode(vocabulary.encode(["b", "c", "<unk>"])) == ["b", "<unk>", "<unk>"]
    with pytest.raises(ValueError, match="'c' is none of the tokens"):
        Vocabulary(["a", "b"], unknown="c")
    with pytest.raises(ValueError, match="1 tokens appear twice"):
        Vocabulary(["a", "a"])


def test_segments_go_on_where_the_last_one_ended():
    tokens = np.arange(27)
    loader = DataLoader(time_steps(tokens, 2), 4, drop_last=True, collate_fn=numpy_collate)
    segments = list(loader)
    assert len(segments) == 3
    x, y = segments[0]
    assert x.tolist() == [[0, 13], [1, 14], [2, 15], [3, 16]]
    whole = np.concatenate([x for x, _ in segments])
    assert (whole == np.arange(12)[:, None] + [0, 13]).all()
    assert all((y == x + 1).all() for x, y in segments)
    assert time_steps(np.arange(26), 2).arrays[0].shape == (12, 2)  # the last token is only ever predicted
    with pytest.raises(DatasetError, match="a text of 4 tokens is too short for 4 columns"):
        time_steps(np.arange(4), 4)


def test_windows():
    windows = Windows(np.arange(10), 3)
    assert len(windows) == 7
    assert [part.tolist() for part in windows[6]] == [[6, 7, 8], [7, 8, 9]]
    assert windows[-1][0].tolist() == [6, 7, 8]
    with pytest.raises(IndexError):
        windows[7]
    strided = Windows(np.arange(10), 3, stride=3)
    assert [x.tolist() for x, _ in map(strided.__getitem__, range(len(strided)))] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    x, y = next(iter(DataLoader(windows, 4, shuffle=True, seed=1)))
    assert x.shape == (4, 3) and (y.numpy() == x.numpy() + 1).all()
    assert len(Windows(np.arange(4), 3)) == 1
    with pytest.raises(DatasetError, match="too short for windows of 3"):
        Windows(np.arange(3), 3)


def test_files_and_folders(tmp_path: Path):
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "first.md").write_text("f\u00fcrst", "utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / ".hidden").write_text("hidden")
    assert read_text(tmp_path) == "f\u00fcrst\nsecond"
    assert read_text(tmp_path / "b.txt") == "second"
    with pytest.raises(DatasetError, match="picture.png is not UTF-8 text"):
        read_text(tmp_path / "picture.png")
    with pytest.raises(DatasetError, match="missing cannot be read: No such file"):
        read_text(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty has no text"):
        read_text(tmp_path / "empty")


def test_python_sources():
    text = python_sources(100_000)
    assert 50_000 < len(text) <= 100_000
    assert text.isascii() and "import" in text
    assert text == python_sources(100_000)


@needs_shakespeare
def test_shakespeare(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DLC_DATA", str(DATA))
    text = tiny_shakespeare()
    assert len(text) == 1_115_394 and len(Vocabulary.of(text)) == 65
    assert text.startswith("First Citizen:\n")


@needs_ptb
@pytest.mark.parametrize(("part", "words", "distinct"), [("valid", 73_760, 6022), ("test", 82_430, 6049)])
def test_penn_treebank(part: str, words: int, distinct: int):
    found = penn_treebank(part, DATA / "ptb")
    assert (len(found), len(set(found))) == (words, distinct)
    assert found.count("<eos>") == (3370 if part == "valid" else 3761)


def test_missing_texts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DLC_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=r"tinyshakespeare/input.txt is missing: load it with download=True"):
        tiny_shakespeare()
    with pytest.raises(DatasetError, match=r"ptb/ptb.train.txt is missing: .*DLC_DATA"):
        penn_treebank("train")
    with pytest.raises(ValueError, match="'train', 'valid' and 'test', not 'dev'"):
        penn_treebank("dev")


def test_downloads_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pooch = pytest.importorskip("pooch")

    def wrong(url, output_file, pooch_):
        Path(output_file).write_text("no words")

    monkeypatch.setattr(pooch, "retrieve", lambda *a, _real=pooch.retrieve, **k: _real(*a, downloader=wrong, **k))
    with pytest.raises(DatasetError, match=r"ptb.train.txt to .* failed: MD5 hash"):
        penn_treebank("train", tmp_path, download=True)
    with pytest.raises(DatasetError, match=r"input.txt to .* failed: SHA256 hash"):
        tiny_shakespeare(tmp_path, download=True)
    assert not list(tmp_path.glob("*.txt"))
