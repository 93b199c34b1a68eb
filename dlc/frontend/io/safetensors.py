"""`dlc.save` and `dlc.load`: named tensors in a safetensors file, which other frameworks read too."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dlc.base.errors import DlcError, OutOfMemory, kind_of
from dlc.base.files import open_regular
from dlc.frontend.core.location import here, user_errors
from dlc.frontend.core.tensor import Tensor
from dlc.ir import dtypes


class CheckpointError(DlcError, OSError):
    """A file that cannot be read or written as named tensors. The message names the file."""


# safetensors' names
_DTYPES = {
    "BOOL": dtypes.bool_, "I8": dtypes.int8, "I16": dtypes.int16, "I32": dtypes.int32, "I64": dtypes.int64,
    "U8": dtypes.uint8, "U16": dtypes.uint16, "U32": dtypes.uint32, "U64": dtypes.uint64,
    "F16": dtypes.float16, "BF16": dtypes.bfloat16, "F32": dtypes.float32, "F64": dtypes.float64,
}  # fmt: skip


def _flat(prefix: str, value: Any, out: dict[str, np.ndarray]) -> None:
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        if isinstance(value, Tensor):
            array = value.numpy()
        elif isinstance(value, (np.ndarray, np.generic, bool, int, float)):
            array = Tensor(value).numpy()
        else:
            raise CheckpointError(f"save: '{prefix}' is a {kind_of(value)}, not a tensor\n  at {here()}")
        if not prefix:
            raise CheckpointError(f"save: give a dict of names and tensors, not one tensor\n  at {here()}")
        if prefix in out:
            raise CheckpointError(f"save: two tensors are called '{prefix}'\n  at {here()}")
        out[prefix] = np.ascontiguousarray(array).reshape(array.shape)
        return
    for name, item in items:
        _flat(f"{prefix}.{name}" if prefix else str(name), item, out)


@functools.partial(user_errors, operation=False)
def save(tensors: Mapping[str, Any], path: str | os.PathLike, metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file, with an optional dict of strings.

    Nested dicts and lists become flat names joined by '.'; a `state_dict()` goes in as it is. The file is written aside
    and renamed, so that `path` never holds half of it. Raises CheckpointError naming the path.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"save: the path, after the tensors, is a string, not a {kind_of(path)}")
    if not isinstance(tensors, Mapping):
        kind = type(tensors).__name__
        raise CheckpointError(f"save: {os.fspath(path)}: give a dict of names and tensors, not a {kind}\n  at {here()}")
    arrays: dict[str, np.ndarray] = {}
    _flat("", tensors, arrays)
    try:
        path = os.path.realpath(path)  # what a link points to is replaced, not the link
    except ValueError as e:  # a null character, or half a surrogate pair
        raise CheckpointError(f"save: cannot write {path!r}: not a path: {e}\n  at {here()}") from None
    if os.path.exists(path) and not os.path.isfile(path):
        raise CheckpointError(f"save: cannot write {path}: it is a folder or a device\n  at {here()}")
    if not os.path.isdir(os.path.dirname(path)):
        raise CheckpointError(f"save: cannot write {path}: there is no folder {os.path.dirname(path)}\n  at {here()}")
    aside = f"{path}.{uuid.uuid4().hex[:12]}.part"
    try:
        safetensors.numpy.save_file(arrays, aside, dict(metadata) if metadata else None)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, safetensors.SafetensorError, TypeError) as e:
        raise CheckpointError(f"save: cannot write {path}: {e}\n  at {here()}") from e
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)


def load(path: str | os.PathLike, *, with_metadata: bool = False):
    """The tensors of a safetensors file as a dict by name; with `with_metadata`, (tensors, dict of strings).

    Raises CheckpointError, naming the file, where it is missing, truncated, corrupt, or has a dtype that dlc lacks.
    """
    path = os.fspath(path)
    try:
        with open_regular(path) as file:
            content = file.read()
        entries = safetensors.deserialize(content)
    except OSError as e:
        raise CheckpointError(f"load: cannot read {path}: {e.strerror or e}\n  at {here()}") from e
    except safetensors.SafetensorError as e:
        size = f"{len(content)} bytes"
        raise CheckpointError(f"load: {path} ({size}) is no whole safetensors file: {e}\n  at {here()}") from e
    except MemoryError:
        raise OutOfMemory(f"load: {path} does not fit into memory\n  at {here()}") from None
    header = _header(content, path)
    out = {name: _tensor(name, entry, path) for name, entry in entries}
    return (out, header.get("__metadata__", {})) if with_metadata else out


def _header(content: bytes, path: str) -> dict[str, Any]:
    """The header of a file that was found to be whole. Raises CheckpointError where it names a tensor twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"load: {path}: its header has two entries '{twice}'\n  at {here()}")
        return found

    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")], object_pairs_hook=once)


def _tensor(name: str, entry: dict[str, Any], path: str) -> Tensor:
    dtype, shape = _DTYPES.get(entry["dtype"]), tuple(entry["shape"])
    if dtype is None:
        kind = entry["dtype"]
        raise CheckpointError(f"load: {path}: '{name}' is {kind}, which dlc has no dtype for\n  at {here()}")
    try:
        if dtype is dtypes.bool_:  # a byte may hold any number
            return Tensor((np.frombuffer(entry["data"], np.uint8) != 0).reshape(shape))
        return Tensor(np.frombuffer(entry["data"], dtype.np).reshape(shape))
    except ValueError as e:  # more axes than NumPy has, or longer ones
        text = f"{len(shape)} axes" if len(shape) > 8 else f"shape {shape}"
        raise CheckpointError(f"load: {path}: '{name}' has {text}: {e}\n  at {here()}") from None
    except MemoryError:
        raise OutOfMemory(f"load: {path}: '{name}' does not fit into memory\n  at {here()}") from None
