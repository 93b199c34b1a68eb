"""Image transforms: their meaning on small batches, and that a seed fixes them."""

import numpy as np
import pytest

from dlc.data import transforms as T

IMAGES = np.random.default_rng(0).integers(1, 256, (6, 3, 8, 10), dtype=np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_to_float_and_normalize():
    out = T.Compose([T.ToFloat(), T.Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))])(IMAGES, rng())
    mean, std = np.reshape((0.5, 0.4, 0.3), (3, 1, 1)), np.reshape((0.2, 0.2, 0.1), (3, 1, 1))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, (IMAGES / 255 - mean) / std, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="Normalize of 2 channels"):
        T.Normalize((0, 0), (1, 1))(IMAGES)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_to_float_is_the_nearest_number_to_the_quotient(dtype):
    high = np.iinfo(dtype).max
    values = np.array([0, 1, 2, 3, *range(7, 256), high // 3, high - 1, high], dtype)
    out = T.ToFloat()(values.reshape(1, 1, 1, -1))
    assert out.dtype == np.float32
    want = [np.float32(int(v) / int(high)) for v in values]  # Python divides integers exactly, then rounds
    np.testing.assert_array_equal(out.ravel(), want)


def test_normalize_is_the_quotient_of_the_difference():
    images = T.ToFloat()(IMAGES)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)))
    out = T.Normalize(tuple(mean.ravel()), tuple(std.ravel()))(images)
    np.testing.assert_array_equal(out, (images - mean) / std)


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_random_crop_is_a_window_of_the_padded_image(mode):
    out = T.RandomCrop((8, 10), padding=2, padding_mode=mode)(IMAGES, rng())
    padded = np.pad(IMAGES, ((0, 0), (0, 0), (2, 2), (2, 2)), mode)
    assert out.shape == IMAGES.shape and out.dtype == np.uint8
    for image, source in zip(out, padded, strict=True):
        places = [(y, x) for y in range(5) for x in range(5) if (source[:, y : y + 8, x : x + 10] == image).all()]
        assert len(places) == 1
    with pytest.raises(ValueError, match="larger than the padded images"):
        T.RandomCrop(20)(IMAGES, rng())


def test_flip_mirrors_some_images():
    out = T.RandomHorizontalFlip()(IMAGES, rng(1))
    mirrored = [(a == b[..., ::-1]).all() for a, b in zip(out, IMAGES, strict=True)]
    kept = [(a == b).all() for a, b in zip(out, IMAGES, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True)) and any(mirrored) and any(kept)


def test_cutout_clears_one_square():
    out = T.Cutout(4)(IMAGES, rng())
    assert out.dtype == IMAGES.dtype
    for image, source in zip(out, IMAGES, strict=True):
        hole = image != source
        assert (image[hole] == 0).all() and (hole == hole[0]).all()
        rows, columns = np.nonzero(hole[0].any(1))[0], np.nonzero(hole[0].any(0))[0]
        assert hole[0].sum() == len(rows) * len(columns) and 2 <= len(rows) <= 4 and 2 <= len(columns) <= 4


def test_a_seed_fixes_the_numbers():
    augment = T.Compose([T.RandomCrop(8, padding=4), T.RandomHorizontalFlip(), T.Cutout(3)])
    assert (augment(IMAGES, rng(4)) == augment(IMAGES, rng(4))).all()
    assert (augment(IMAGES, rng(4)) != augment(IMAGES, rng(5))).any()
