"""Fetch one file of a data set, checked before it takes its name."""

from __future__ import annotations

import os
from pathlib import Path

from dlc.data.errors import DatasetError


def fetch_file(name: str, url: str, path: Path, checksum: str) -> None:
    """Fetch `url` to `path` unless it is there; `name` is the data set's, `checksum` e.g. 'md5:...'.

    The file is written aside and takes its name after its checksum is right. Raises DatasetError.
    """
    if os.path.exists(path):
        return
    try:
        import pooch
    except ImportError:
        raise DatasetError(f"the download of {name} needs the package pooch: pip install 'dlc[models]'") from None
    try:
        pooch.retrieve(url, known_hash=checksum, fname=path.name, path=path.parent)
    except (OSError, ValueError) as error:
        raise DatasetError(f"the download of {url} to {path.parent} failed: {error}") from error
