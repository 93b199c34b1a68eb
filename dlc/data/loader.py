"""DataLoader: batches of a dataset in a reproducible order, read ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlc.base.errors import kind_of
from dlc.base.workers import Workers, WorkerTask
from dlc.data.collate import default_collate, numpy_collate, to_tensors
from dlc.data.dataset import fetch
from dlc.frontend.core.location import Located


@dataclass
class _Position:
    """Where an iteration stands: batches of `epoch` before number `batch` were handed to the caller."""

    epoch: int
    batch: int


class DataLoader(Located):
    """Iterate over a dataset in batches; each `iter()` is one epoch.

    The order of epoch `e`, and the random numbers that `transform` sees for batch `b` of it, depend on `(seed, e, b)`
    alone: not on the number of threads, nor on whether the run was interrupted and resumed with `state_dict`.

    Args:
        dataset: anything with `__len__` and `__getitem__`, best with `__getitems__` (see `Dataset`), or a NumPy array.
        batch_size: samples in a batch.
        shuffle: draw a new order each epoch.
        drop_last: leave out a last batch that is not full.
        num_workers: threads that read ahead; 0 reads in the calling thread. An exception in a thread is raised at the
            caller's `next()` with its own traceback. Leaving the loop early stops the threads. Where no thread can be
            started, and in a fork in the middle of an epoch, the calling thread reads.
        collate_fn: turns a list of samples into a batch, which is handed out as it is. By default samples are stacked
            and become Tensors; `numpy_collate` leaves them NumPy arrays.
        prefetch_factor: batches that each thread may be ahead.
        seed: of shuffling and transforms. Without `seed` and `generator` every loader draws its own.
        generator: a NumPy generator from which the seed is drawn, once.
        transform: called as `transform(images, rng)` on the first array of each batch (see `dlc.data.transforms`).
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        *,
        prefetch_factor: int = 2,
        seed: int | None = None,
        generator: np.random.Generator | None = None,
        transform: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch_factor", prefetch_factor, 1),
        ):
            if not isinstance(value, (int, np.integer)):
                raise TypeError(f"DataLoader: {name} is an integer, not {value!r}")
            if value < least:
                raise ValueError(f"DataLoader: {name} must be at least {least}, got {value}")
        for methods in (("__len__",), ("__getitem__", "__getitems__")):
            if not any(hasattr(dataset, method) for method in methods):
                raise TypeError(f"DataLoader: a dataset has __len__ and __getitem__; "
                                f"{kind_of(dataset)} lacks {methods[0]}")
        for name, function in (("collate_fn", collate_fn), ("transform", transform)):
            if function is not None and not callable(function):
                raise TypeError(f"DataLoader: {name} is a function, not a {kind_of(function)}")
        if seed is not None and generator is not None:
            raise ValueError("DataLoader: give either seed or generator, not both")
        if transform is not None and collate_fn not in (None, default_collate, numpy_collate):
            raise ValueError("DataLoader: transform needs a stacked batch; call it in collate_fn instead")
        if seed is None:
            seed = int((generator or np.random.default_rng()).integers(2**63))
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.collate_fn = collate_fn or default_collate
        self.prefetch_factor = prefetch_factor
        self.seed = seed
        self.transform = transform
        self._position = _Position(0, 0)
        self._next_epoch = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        """Start the next epoch, or go on with the one that `load_state_dict` restored."""
        position = self._position = _Position(self._next_epoch, self._resume_at)
        self._next_epoch, self._resume_at = self._next_epoch + 1, 0
        return self._batches(position)

    def state_dict(self) -> dict[str, int]:
        """Where the latest iteration stands, counted in batches handed out; read-ahead batches do not count."""
        epoch, batch = self._position.epoch, self._position.batch
        if batch and batch >= len(self):
            epoch, batch = epoch + 1, 0
        return {"seed": self.seed, "epoch": epoch, "batch": batch} | self._order_facts()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Make the next `iter()` go on where `state` was taken. The dataset and batch size must be the same."""
        lacks = [name for name in self.state_dict() if name not in state]
        if lacks:
            raise ValueError(f"DataLoader: no state_dict of a loader: it lacks {', '.join(lacks)}")
        for name, value in self._order_facts().items():
            if state[name] != value:
                raise ValueError(f"DataLoader: the state was saved with {name}={state[name]}, this loader has {value}")
        for name in ("seed", "epoch", "batch"):
            if not isinstance(state[name], (int, np.integer)) or state[name] < 0:
                raise ValueError(f"DataLoader: the state's {name} is a whole number from 0, not {state[name]!r}")
        if state["batch"] > len(self):
            raise ValueError(f"DataLoader: the state's batch is {state['batch']}, this loader has {len(self)}")
        self.seed, self._next_epoch, self._resume_at = int(state["seed"]), int(state["epoch"]), int(state["batch"])
        self._position = _Position(self._next_epoch, self._resume_at)

    def _order_facts(self) -> dict[str, int]:
        """What else decides the batches of an epoch; stored beside the position to refuse a state of another loader."""
        return {
            "samples": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": int(self.shuffle),
            "drop_last": int(self.drop_last),
        }

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _batches(self, position: _Position) -> Iterator[Any]:
        epoch, count = position.epoch, len(self)
        order = self._rng(epoch).permutation(len(self.dataset)) if self.shuffle else np.arange(len(self.dataset))
        rows = [order[k * self.batch_size : (k + 1) * self.batch_size] for k in range(position.batch, count)]
        first = position.batch
        jobs = ((epoch, first + k, indices) for k, indices in enumerate(rows))
        with closing(self._read_ahead(jobs) if self.num_workers else (self._load(*job) for job in jobs)) as loaded:
            for batch in loaded:
                position.batch += 1
                # In the caller's thread: Tensors belong to the thread, device and settings that use them.
                yield to_tensors(batch) if self.collate_fn is default_collate else batch

    def _load(self, epoch: int, number: int, indices: np.ndarray) -> Any:
        try:
            if self.collate_fn in (default_collate, numpy_collate):
                batch = fetch(self.dataset, indices)
                return self._transformed(batch, epoch, number)
            return self.collate_fn([self.dataset[index] for index in indices.tolist()])
        except Exception as error:
            shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
            error.add_note(f"while loading batch {number} of epoch {epoch} (samples {shown})")
            raise

    def _transformed(self, batch: Any, epoch: int, number: int) -> Any:
        if self.transform is None:
            return batch
        rng = self._rng(epoch, number)
        if isinstance(batch, tuple):
            return (self.transform(batch[0], rng), *batch[1:])
        return self.transform(batch, rng)

    def _read_ahead(self, jobs: Iterator[tuple[int, int, np.ndarray]]) -> Generator[Any, None, None]:
        """Load in threads, deliver in order. Closing this generator (also by `break`) ends the threads."""
        workers = Workers(self.num_workers, "dlc-data")
        try:
            pending: deque[WorkerTask[Any]] = deque()
            for job in jobs:
                pending.append(workers.submit(self._load, *job))
                if len(pending) > self.num_workers * self.prefetch_factor:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            workers.close()
