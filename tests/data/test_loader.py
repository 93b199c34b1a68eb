"""DataLoader: batches, order, resuming, threads and their failures."""

import threading
import time
import traceback

import numpy as np
import pytest

import dlc
from dlc.data import DataLoader, Dataset, Subset, TensorDataset, numpy_collate, random_split

ARRAY = np.arange(23)


def loader(dataset=ARRAY, batch_size=4, **options):
    return DataLoader(dataset, batch_size, collate_fn=numpy_collate, **options)


def batches(iterable):
    return [batch.tolist() for batch in iterable]


class Squares(Dataset):
    """One sample at a time, no `__getitems__`."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"x": np.full(3, index * index, np.float32), "y": index, "name": str(index)}


class Failing(Squares):
    def __getitem__(self, index):
        if index == 7:
            raise KeyError("the sample is broken")
        return super().__getitem__(index)


def data_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dlc-data")]


def test_samples_with_different_keys():
    with pytest.raises(ValueError, match=r"differ in their keys: \['a'\] and \['b'\]"):
        next(iter(DataLoader([{"a": 1}, {"b": 2}], 2)))


def test_batches_in_order():
    assert batches(loader()) == [ARRAY[k : k + 4].tolist() for k in range(0, 23, 4)]
    assert len(loader()) == 6
    assert [len(batch) for batch in loader(drop_last=True)] == [4] * 5 == [4] * len(loader(drop_last=True))


def test_samples_are_stacked():
    batch = next(iter(loader(Squares(), 3)))
    assert batch["x"].shape == (3, 3) and batch["x"].dtype == np.float32
    assert batch["y"].tolist() == [0, 1, 2] and batch["y"].dtype == np.int64
    assert batch["name"] == ["0", "1", "2"]


def test_python_numbers_take_default_dtypes():
    batch = numpy_collate([(1.5, 2, True), (2, 3, False)])
    assert [field.dtype for field in batch] == [np.float32, np.int64, np.bool_]


def test_uneven_samples_are_refused():
    with pytest.raises(ValueError, match=r"different shapes: \(2,\), \(3,\)"):
        numpy_collate([np.zeros(2), np.zeros(3)])


def test_custom_collate_gets_samples():
    got = list(DataLoader(TensorDataset(np.arange(5), np.arange(5) * 2), 2, collate_fn=list))
    assert got[2] == [(4, 8)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_seed_fixes_every_epoch(workers):
    one, two = loader(shuffle=True, seed=5), loader(shuffle=True, seed=5, num_workers=workers)
    first, second = batches(one), batches(one)
    assert first != second
    assert sorted(sum(first, [])) == ARRAY.tolist()
    assert [batches(two), batches(two)] == [first, second]
    assert batches(loader(shuffle=True, seed=6)) != first


def test_generator_gives_the_seed():
    def run():
        return batches(loader(shuffle=True, generator=np.random.default_rng(1)))

    assert run() == run()


def noisy(images, rng):
    return images + rng.random(images.shape)


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_mid_epoch(workers):
    def make():
        return loader(shuffle=True, seed=1, num_workers=workers, transform=noisy)

    whole, broken = make(), make()
    expected = batches(whole) + batches(whole)
    seen = []
    for batch in broken:
        seen.append(batch.tolist())
        if len(seen) == 2:
            break
    state = broken.state_dict()
    assert (state["epoch"], state["batch"]) == (0, 2)

    resumed = loader(shuffle=True, seed=99, num_workers=workers, transform=noisy)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert seen + batches(resumed) + batches(resumed) == expected


def test_state_after_the_last_batch_is_the_next_epoch():
    data = loader(shuffle=True, seed=1)
    iterator = iter(data)
    for _ in range(len(data)):
        next(iterator)
    assert (data.state_dict()["epoch"], data.state_dict()["batch"]) == (1, 0)


def test_state_of_another_loader_is_refused():
    state = loader(batch_size=4).state_dict()
    with pytest.raises(ValueError, match="saved with batch_size=4, this loader has 5"):
        loader(batch_size=5).load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 2])
def test_error_reaches_the_caller_with_its_traceback(workers):
    iterator = iter(loader(Failing(), 3, num_workers=workers))
    next(iterator), next(iterator)
    with pytest.raises(KeyError, match="the sample is broken") as caught:
        next(iterator)
    text = "".join(traceback.format_exception(caught.value))
    assert 'raise KeyError("the sample is broken")' in text
    assert "while loading batch 2 of epoch 0 (samples 6, 7, 8)" in text
    assert not data_threads()


def test_abandoned_iteration_ends_the_threads():
    for _ in loader(num_workers=3):
        assert data_threads()
        break
    assert not data_threads()


def test_threads_read_ahead_but_not_without_bound():
    read = []

    class Counting(Squares):
        def __getitem__(self, index):
            read.append(index)
            return index

    iterator = iter(loader(Counting(), 1, num_workers=1, prefetch_factor=2))
    next(iterator)
    deadline = time.monotonic() + 5
    while len(read) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(read) == 3
    iterator.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"seed": 1, "generator": np.random.default_rng()}, "either seed or generator"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        loader(**options)


def test_sizes_are_integers():
    with pytest.raises(TypeError, match="batch_size is an integer, not 2.5"):
        loader(batch_size=2.5)
    assert len(next(iter(loader(batch_size=np.int64(2))))) > 0


def test_what_is_no_dataset():
    for wrong, method in ((None, "__len__"), ({1, 2}, "__getitem__")):
        with pytest.raises(TypeError, match=f"{type(wrong).__name__} lacks {method}"):
            DataLoader(wrong, 2)


def test_default_batches_are_tensors():
    x, y = next(iter(DataLoader(TensorDataset(np.ones((5, 2), np.float32), np.arange(5)), 3)))
    assert isinstance(x, dlc.Tensor) and x.shape == (3, 2) and x.dtype == dlc.float32
    assert y.numpy().tolist() == [0, 1, 2]


def test_tensor_dataset_and_subset():
    data = TensorDataset(ARRAY, ARRAY * 2)
    part = Subset(data, [5, 3, 1])
    assert len(part) == 3 and part[1] == (3, 6)
    assert [field.tolist() for field in next(iter(loader(part, 2)))] == [[5, 3], [10, 6]]
    with pytest.raises(ValueError, match=r"arrays of one length, got shapes \(23,\), \(2,\)"):
        TensorDataset(ARRAY, np.zeros(2))
    with pytest.raises(IndexError, match="out of range for a dataset of 23 samples"):
        Subset(data, [23])


def test_random_split():
    parts = random_split(ARRAY, [0.5, 0.25, 0.25], generator=3)
    assert [len(part) for part in parts] == [12, 6, 5]
    assert sorted(index for part in parts for index in part.indices) == list(range(23))
    again = random_split(ARRAY, [12, 6, 5], generator=3)
    assert all((a.indices == b.indices).all() for a, b in zip(parts, again, strict=True))
    with pytest.raises(ValueError, match="do not sum to the dataset's 23 samples"):
        random_split(ARRAY, [12, 6])


def test_numbers_of_mixed_kinds_are_not_taken_for_bools():
    np.testing.assert_array_equal(numpy_collate([True, 2]), [1, 2])
