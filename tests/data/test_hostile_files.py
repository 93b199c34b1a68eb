"""Files made to do harm, and files damaged at random: read right, or refused by a DlcError that names them.

The child that reads bombs may take little memory, so that whoever unpacks one dies.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import dlc
from dlc.base.errors import DlcError
from dlc.data import CIFAR10, MNIST, DatasetError, ImageMasks, cifar10, penn_treebank, read_text, tiny_shakespeare
from dlc.data.cifar10 import read_batch
from dlc.data.mnist import read_idx


def png(pixels: np.ndarray, *chunks: tuple[bytes, bytes], size: tuple[int, int] | None = None,
        data: bytes = b"") -> bytes:
    """A PNG file of grey pixels, with more chunks before them; `size` is what its header says."""
    height, width = size or pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *chunks,
             (b"IDAT", data or zlib.compress(rows)), (b"IEND", b"")]
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in parts:
        out += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return out


def idx(data: np.ndarray) -> bytes:
    return struct.pack(f">HBB{data.ndim}I", 0, 8, data.ndim, *data.shape) + data.tobytes()


def batch(count: int = 3) -> bytes:
    pixels = np.arange(count * 3072, dtype=np.uint8).reshape(count, 3072)
    return pickle.dumps({b"data": pixels, b"labels": list(range(count))}, 2)


def tensors() -> dict[str, np.ndarray]:
    return {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3), "b": np.array([True, False]),
            "h": np.ones(5, ml_dtypes.bfloat16), "empty": np.zeros((0, 4), np.int8)}


def safetensors_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def images(folder: Path, image: bytes, mask: bytes) -> ImageMasks:
    for name, content in (("images", image), ("masks", mask)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "a.png").write_bytes(content)
    return ImageMasks(folder)


PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8)
needs_pillow = pytest.mark.skipif(not __import__("importlib.util").util.find_spec("PIL"), reason="needs Pillow")


# --- damaged at random


def mutated(content: bytes, choose: random.Random) -> bytes:
    """Some bytes changed, inserted, removed, repeated or cut off."""
    out = bytearray(content)
    for _ in range(choose.choice((1, 1, 2, 5))):
        at = choose.randrange(len(out) + 1)
        kind = choose.randrange(7)
        if kind == 0:
            out[at:at + 1] = bytes([choose.randrange(256)])
        elif kind == 1:
            out[at:at + 1] = bytes([(out[at] if at < len(out) else 0) ^ 1 << choose.randrange(8)])
        elif kind == 2:
            out[at:at] = choose.randbytes(choose.choice((1, 4, 100)))
        elif kind == 3:
            del out[at:at + choose.choice((1, 4, 100))]
        elif kind == 4:
            out[at:at + 8] = choose.choice((b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8, b"\0\0\0\x01" * 2))
        elif kind == 5:
            del out[at:]
        else:
            piece = out[at:at + choose.randrange(1, 40)]
            out[at:at] = piece * choose.choice((1, 3))
    return bytes(out)


def read_images(path: Path) -> None:
    ImageMasks(path.parent.parent)[0]


def load_and_look(path: Path) -> None:
    for tensor in dlc.load(path).values():
        tensor.numpy()


FORMATS: dict[str, tuple[Callable[[], bytes], Callable[[Path], object], int]] = {
    "idx": (lambda: gzip.compress(idx(np.arange(60, dtype=np.uint8).reshape(5, 3, 4)), mtime=0),
            lambda path: read_idx(path, (5, 3, 4)), 600),
    "unpacked idx": (lambda: idx(np.arange(60, dtype=np.uint8).reshape(5, 3, 4)),
                     lambda path: read_idx(path, (5, 3, 4)), 300),
    "cifar": (batch, read_batch, 600),
    "cifar of one": (lambda: batch(1)[-400:] + batch(0), read_batch, 200),
    "text": (lambda: "Grüße, 世界\r\n\0end\n".encode() * 3, read_text, 300),
    "png": (lambda: png(PIXELS, (b"zTXt", b"a\0\0" + zlib.compress(b"text" * 50)), (b"gAMA", b"\0\0\xb1\x8f")),
            read_images, 400),
    "safetensors": (lambda: __import__("safetensors.numpy").numpy.save(tensors()), load_and_look, 600),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("error")
def test_damaged_at_random(name, tmp_path):
    if name == "png":
        pytest.importorskip("PIL")
        images(tmp_path, png(PIXELS), png(PIXELS))
    make, read, count = FORMATS[name]
    content, choose = make(), random.Random(f"{name} 7")
    path = tmp_path / "images" / "a.png" if name == "png" else tmp_path / "file"
    refused = 0
    for number in range(count):
        damaged = mutated(content, choose)
        path.write_bytes(gzip.compress(damaged, 1) if name == "unpacked idx" else damaged)
        try:
            read(path)
        except DlcError as error:
            refused += 1
            assert str(path) in str(error), f"{number}: {error}"
        except BaseException as error:
            raise AssertionError(f"{name} {number}: {damaged!r}") from error
    assert refused > count // 10


# --- made to do harm


HEADERS = {
    "not JSON": b"{",
    "not a dict": b"[]",
    "nothing": b"",
    "deep": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "65 axes": {"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}},
    "10,000 axes": {"a": {"dtype": "F32", "shape": [1] * 10_000, "data_offsets": [0, 4]}},
    "long axes of nothing": {"a": {"dtype": "F32", "shape": [0, 1 << 62, 1 << 62], "data_offsets": [0, 0]}},
    "axes beyond 64 bits": {"a": {"dtype": "F32", "shape": [1 << 64], "data_offsets": [0, 4]}},
    "an axis that wraps": {"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}},
    "negative axis": {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    "fractional axis": {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
    "wrong size": {"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 4]}},
    "unknown dtype": {"a": {"dtype": "F33", "shape": [1], "data_offsets": [0, 4]}},
    "dtype that we lack": {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
    "dtype of no text": {"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}},
    "beyond the end": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
    "far beyond the end": {"a": {"dtype": "U8", "shape": [1 << 50], "data_offsets": [0, 1 << 50]}},
    "backwards": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
    "negative offset": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
    "a hole": {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
               "b": {"dtype": "U8", "shape": [1], "data_offsets": [3, 4]}},
    "overlapping": {"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
                    "b": {"dtype": "U8", "shape": [3], "data_offsets": [1, 4]}},
    "the same bytes": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                       "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    "a name twice": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                    b'"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}',
    "a field twice": b'{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}',
    "metadata of numbers": {"__metadata__": {"a": 1}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    "metadata of lists": {"__metadata__": [1], "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
}  # fmt: skip


@pytest.mark.parametrize("what", HEADERS)
def test_headers_of_safetensors(what, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors_of(HEADERS[what], bytes(4)))
    with pytest.raises(dlc.CheckpointError) as caught:
        dlc.load(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


def test_lengths_of_headers(tmp_path):
    path = tmp_path / "file.safetensors"
    for length in (0, 1, 7, 9, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(dlc.CheckpointError, match="file.safetensors"):
            dlc.load(path)
    for content in (b"", b"\0" * 7, b"\0" * 8):
        path.write_bytes(content)
        with pytest.raises(dlc.CheckpointError, match="file.safetensors"):
            dlc.load(path)


def test_strange_but_sound_safetensors(tmp_path):
    path = tmp_path / "file.safetensors"
    names = ["", "a\0b", "__proto__", "é" * 300, "\ud7ff", ".", "a.b"]
    header = {n: {"dtype": "U8", "shape": [1], "data_offsets": [k, k + 1]} for k, n in enumerate(names)}
    path.write_bytes(safetensors_of(header, bytes(range(len(names)))))
    assert {n: t.item() for n, t in dlc.load(path).items()} == {n: k for k, n in enumerate(names)}
    header = {"b": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}
    path.write_bytes(safetensors_of(header, bytes([0, 1, 255])))
    truth = dlc.load(path)["b"]  # any byte but 0 is True, and True is 1
    assert truth.numpy().view(np.uint8).tolist() == [0, 1, 1] and int(dlc.sum(truth)) == 2


PATHS = {"null": "a\0b", "half": "a\udc00\ud800", "long": "x" * 5000, "empty": "", "missing": "no/such/file"}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_paths(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readers: list[Callable[[], object]] = [
        lambda: dlc.load(path), lambda: dlc.save({"a": dlc.ones(1)}, path or "."),
        lambda: read_idx(Path(path), (1,)), lambda: MNIST(path), lambda: CIFAR10(path), lambda: read_batch(Path(path)),
        lambda: tiny_shakespeare(path), lambda: penn_treebank("test", path), lambda: ImageMasks(path),
        lambda: read_text(path or "no such file"),
    ]
    for read in readers:
        with pytest.raises((DatasetError, dlc.CheckpointError)):
            read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "unreadable"])
def test_what_is_no_file(kind, tmp_path):
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)  # nobody will ever write to it
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")  # it never ends
    elif os.geteuid():
        path.write_bytes(b"")
        path.chmod(0)
    else:
        pytest.skip("root reads everything")
    for read in (dlc.load, lambda p: read_idx(p, (1,)), read_batch, read_text):
        with pytest.raises((DatasetError, dlc.CheckpointError), match=str(path)):
            read(path)


def test_text(tmp_path):
    path = tmp_path / "text"
    for content in (b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"ok\n" * 1000 + b"\xc0\x80"):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=f"{path} is not UTF-8 text"):
            read_text(path)
    path.write_bytes(b"x" * (1 << 22))  # one line
    assert len(read_text(path)) == 1 << 22
    path.write_bytes(b"a\0b")
    assert read_text(path) == "a\0b"


PICKLES = {
    "a large memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a larger memo": b"\x80\x02](p4000000000\n.",
    "a text again and again": b"\x80\x02c_codecs\nencode\nq\0X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
                              + b"q\x01X\x06\0\0\0latin1q\x02]q\x03(" + b"h\0h\x01h\x02\x86R" * 3000 + b"e.",
    "a list in itself": b"\x80\x02]q\0h\0a.",
    "deep": b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "a length beyond the end": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc.",
    "a length of 16 EiB": b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",
    "byte arrays beyond the end": b"\x80\x05\x96" + struct.pack("<Q", 1 << 45) + b"abc.",
    "a long number": b"\x80\x02\x8b\xff\xff\xff\x7f123.",
    "a long decimal": b"I" + b"9" * 1_000_000 + b"\n.",
    "a shape that wraps": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]}, 2).replace(
        b"M\0\x0c", b"\x8a\x09" + b"\0" * 8 + b"\x01"),
    "nothing": b"",
    "no end": b"\x80\x02}",
    "persistent id": b"Psomething\n.",
    "extension": b"\x80\x02\x82\x01.",
    "out of band": b"\x80\x05\x97.",
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_pickles(tmp_path):
    for name, content in PICKLES.items():
        (tmp_path / name).write_bytes(content)
    limited({str(tmp_path / name): f"read_batch(Path({str(tmp_path / name)!r}))" for name in PICKLES})


def test_a_batch_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "MOST_BYTES", 1000)
    path = tmp_path / "batch"
    path.write_bytes(batch())
    with pytest.raises(DatasetError, match=f"{path} is no CIFAR-10 batch .it has more than 1000 bytes"):
        read_batch(path)


def test_python_2_batches_have_room_for_their_bytes(tmp_path):
    """Python 3 writes the bytes of a protocol-2 array as text that is encoded; that is no bomb."""
    pixels = np.full((2, 3072), 255, np.uint8)
    for protocol in range(6):
        (tmp_path / "batch").write_bytes(pickle.dumps({"data": pixels, "labels": [1, 2]}, protocol))
        found, labels = read_batch(tmp_path / "batch")
        assert (found == 255).all() and labels.tolist() == [1, 2]


def limited(readers: dict[str, str]) -> None:
    """Run code in a process that may take little memory: each must raise a DlcError that has its key."""
    program = f"""
import resource
from pathlib import Path
import numpy as np, dlc, dlc.data
from dlc.data.cifar10 import read_batch
from dlc.data.mnist import read_idx
try:
    import PIL.Image, PIL.PngImagePlugin
except ImportError:
    pass
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + (500 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for named, code in {readers!r}.items():
    try:
        exec(code)
    except dlc.DlcError as error:
        assert named in str(error) and len(str(error)) < 1000, error
    else:
        raise SystemExit(f"{{named}} was read")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert used < 400 << 10, (named, used)  # kilobytes
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_gzip_bombs(tmp_path):
    """Megabytes that unpack to gigabytes of zeros: 1000 members of one, after a header that promises little or none."""
    member, readers = gzip.compress(bytes(4 << 20), 9), {}
    for k, shape in enumerate([(60_000, 28, 28), (4, 5)]):
        header = idx(np.zeros(shape, np.uint8))[: 4 + 4 * len(shape)]
        for name, start in (("bare", b""), ("headed", gzip.compress(header))):
            path = tmp_path / f"{name}{k}.gz"
            path.write_bytes(start + member * 1000)
            readers[str(path)] = f"read_idx(Path({str(path)!r}), {shape})"
    limited(readers)


def test_headers_of_idx_files(tmp_path):
    path = tmp_path / "file.gz"
    for header in (struct.pack(">HBB3I", 0, 8, 3, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), struct.pack(">HBB", 0, 8, 255),
                   struct.pack(">HBBI", 0, 13, 1, 4), b"", b"\0\0\x08"):
        path.write_bytes(gzip.compress(header + bytes(100)))
        with pytest.raises(DatasetError, match=str(path)):
            read_idx(path, (4,))


@needs_pillow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_png_bombs(tmp_path):
    small, packed = png(PIXELS), zlib.compress(bytes(200 << 20), 9)
    bombs = {
        "images of many pixels": png(PIXELS, size=(20_000, 20_000), data=packed),
        "images of more pixels": png(PIXELS, size=(0x7FFFFFFF, 0x7FFFFFFF), data=packed),
        "images with a text": png(PIXELS, *[(b"zTXt", b"k\0\0" + packed)] * 3),
        "images with an international text": png(PIXELS, (b"iTXt", b"k\0\1\0\0\0" + packed)),
        "masks of many pixels": png(PIXELS, size=(9_000, 9_000), data=packed),
    }
    readers = {}
    for name, bomb in bombs.items():
        kind = name.partition(" ")[0]
        for folder in ("images", "masks"):
            (tmp_path / name / folder).mkdir(parents=True)
            (tmp_path / name / folder / "a.png").write_bytes(bomb if folder == kind else small)
        readers[str(tmp_path / name / kind / "a.png")] = f"dlc.data.ImageMasks({str(tmp_path / name)!r})"
    limited(readers)


@needs_pillow
def test_pngs_that_are_refused(tmp_path):
    for image, match in (
        (png(PIXELS, size=(0, 8)), "no sound PNG"), (png(PIXELS, size=(6, 9)), "no sound PNG"),
        (png(PIXELS)[:60], "no sound PNG"), (b"", "no sound PNG"), (b"\x89PNG\r\n\x1a\n", "no sound PNG"),
        (png(PIXELS, size=(9000, 9000)), "9000 x 9000; images have at most"),
    ):
        with pytest.raises(DatasetError, match=match) as caught:
            images(tmp_path, image, png(PIXELS))
        assert str(tmp_path / "images" / "a.png") in str(caught.value)
    with pytest.raises(DatasetError, match="masks/a.png is 7 x 6, but a.png 8 x 6"):
        images(tmp_path, png(PIXELS), png(PIXELS[:, :7]))
    data = images(tmp_path, png(PIXELS), png(PIXELS))
    assert (data[0][0] == PIXELS).all()
