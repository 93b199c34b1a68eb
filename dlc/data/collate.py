"""From a list of samples to one batch: stack leaf by leaf, then turn the leaves into Tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def numpy_collate(samples: Sequence[Any]) -> Any:
    """Stack samples along a new first axis, as NumPy arrays.

    Samples are arrays, Tensors, numbers, or tuples, lists and dicts of these, all of one structure. Python floats
    become float32 and ints int64, dlc's default dtypes. Strings, bytes and None are kept as a list.
    """
    first = samples[0]
    if isinstance(first, Mapping):
        other = next((s for s in samples if s.keys() != first.keys()), None)
        if other is not None:
            raise ValueError(f"samples of one batch differ in their keys: {list(first)} and {list(other)}")
        return {key: numpy_collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, (tuple, list)):
        lengths = {len(sample) for sample in samples}
        if len(lengths) > 1:
            raise ValueError(f"samples of one batch differ in their number of fields: {sorted(lengths)}")
        fields = [numpy_collate(field) for field in zip(*samples, strict=True)]
        return type(first)(*fields) if hasattr(first, "_fields") else tuple(fields)
    if first is None or isinstance(first, (str, bytes)):
        return list(samples)
    if all(isinstance(sample, bool) for sample in samples):
        return np.array(samples, np.bool_)
    if all(isinstance(sample, int) for sample in samples):
        return np.array(samples, np.int64)
    if isinstance(first, (int, float)):
        return np.array(samples, np.float32)
    arrays = [np.asarray(sample) for sample in samples]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ValueError(f"samples of one batch have different shapes: {', '.join(map(str, sorted(shapes)))}")
    return np.stack(arrays)


def to_tensors(batch: Any) -> Any:
    """Turn every NumPy array of a batch into a dlc Tensor of the same dtype; other leaves stay as they are."""
    import dlc  # here, not above: the data package must be importable while the frontend itself is being imported

    return _map_arrays(dlc.asarray, batch)


def _map_arrays(fn: Callable[[np.ndarray], Any], batch: Any) -> Any:
    if isinstance(batch, np.ndarray):
        return fn(batch)
    if isinstance(batch, Mapping):
        return {key: _map_arrays(fn, value) for key, value in batch.items()}
    if isinstance(batch, tuple):
        fields = [_map_arrays(fn, value) for value in batch]
        return type(batch)(*fields) if hasattr(batch, "_fields") else tuple(fields)
    return batch


def default_collate(samples: Sequence[Any]) -> Any:
    """Stack samples along a new first axis, as dlc Tensors (see `numpy_collate` for what a sample may be)."""
    return to_tensors(numpy_collate(samples))
