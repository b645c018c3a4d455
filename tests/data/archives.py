"""Tiny archives in the published formats, with the arrays that they hold."""

import gzip
import io
import lzma
import struct
import tarfile

import numpy as np

WRITE = {"": open, ".gz": gzip.open, ".xz": lzma.open}


def random_set(name, rng, *, train=20, test=8):
    """`{split: (images, labels)}` of the shape and with the number of classes of `name`."""
    shape = (28, 28, 1) if "mnist" in name else (32, 32, 3)
    classes = 100 if name == "cifar100" else 10
    return {
        split: (
            rng.integers(256, size=(size, *shape), dtype=np.uint8),
            rng.integers(classes, size=size, dtype=np.uint8),
        )
        for split, size in (("train", train), ("test", test))
    }


def write_idx(folder, data, suffix=""):
    """Four files, as MNIST has them."""
    paths = []
    for split, name in (("train", "train"), ("test", "t10k")):
        images, labels = data[split]
        for content, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            paths.append(folder / f"{name}-{content}-ubyte{suffix}")
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            with WRITE[suffix](paths[-1], "wb") as file:
                file.write(header + array.tobytes())
    return paths


def planes(images):
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def binary_files(name, data):
    """File name to content; CIFAR-100 has a coarse label (here 0) before the fine one."""
    coarse = np.zeros if name == "cifar100" else lambda size: np.empty((size[0], 0))
    raw = {}
    for split, (images, labels) in data.items():
        columns = [coarse((len(labels), 1)), labels[:, None], planes(images)]
        records = np.concatenate(columns, axis=1).astype(np.uint8)
        if name == "cifar100":
            raw[f"cifar-100-binary/{split}.bin"] = records.tobytes()
        else:
            for file, piece in _cifar10_pieces(split, records):
                raw[f"cifar-10-batches-bin/{file}.bin"] = piece.tobytes()
    return raw


def python_files(name, data):
    """File name to content, pickled as Python 2 did."""
    raw = {}
    for split, (images, labels) in data.items():
        records = np.concatenate([labels[:, None], planes(images)], axis=1)
        if name == "cifar100":
            raw[f"cifar-100-python/{split}"] = python2_pickle("fine_labels", records)
        else:
            for file, piece in _cifar10_pieces(split, records):
                raw[f"cifar-10-batches-py/{file}"] = python2_pickle("labels", piece)
    return raw


def _cifar10_pieces(split, records):
    if split == "test":
        return [("test_batch", records)]
    pieces = np.array_split(records, 5)
    return [(f"data_batch_{number}", piece) for number, piece in enumerate(pieces, start=1)]


def python2_pickle(key, records):
    """`{"data": uint8 array, key: [ints]}` in protocol 2, with the strings of Python 2."""
    pixels = records[:, 1:].tobytes()

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85"
    array += text(b"b") + b"\x87R(" + number(1) + number(len(records)) + number(3072) + b"\x86"
    array += dtype + b"\x89" + text(pixels) + b"tb"
    labels = b"](" + b"".join(number(int(label)) for label in records[:, 0]) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key.encode()) + labels + b"u."


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return path


def pack(images, rng):
    """The arrays of a packed `.npz`: an encoder written from the format's description.

    Slow and plain: one image and one value at a time.
    """
    freq = 1 + rng.multinomial((1 << 14) - 256, np.full(256, 1 / 256), size=(3, 144))
    thresholds = np.sort(rng.integers(1500, size=(3, 15)), axis=1).astype(np.int16)
    starts = freq.cumsum(axis=-1) - freq
    coded = [_symbols(image, thresholds) for image in images]
    state = np.full(len(images), 1 << 16, np.int64)
    words = []
    for step in reversed(range(32 * 32 * 3)):
        emitted = []
        for image, symbols in enumerate(coded):
            plane, context, symbol = symbols[step]
            size, start = freq[plane, context, symbol], starts[plane, context, symbol]
            if state[image] >= size << 18:
                emitted.append(state[image] & 0xFFFF)
                state[image] >>= 16
            state[image] = (state[image] // size << 14) + state[image] % size + start
        words = emitted + words
    return {
        "words": np.array(words, np.uint16),
        "state": state.astype(np.uint32),
        "freq": freq.astype(np.uint16),
        "thr": thresholds,
    }


def _symbols(image, thresholds):
    """Plane, context and residual modulo 256 of every pixel, in the order of the format."""
    red, green, blue = image.transpose(2, 0, 1).astype(int)
    values = np.stack([green, (red - green + 128) % 256, (blue - green + 128) % 256])
    sizes = np.zeros((3, 36, 36), int)
    padded = np.pad(values, [(0, 0), (2, 2), (2, 2)])
    found = []
    for y in range(2, 34):
        for x in range(2, 34):
            before = 0
            for k in range(3):
                left, up, corner = padded[k, y, x - 1], padded[k, y - 1, x], padded[k, y - 1, x - 1]
                guess = sorted((min(left, up), left + up - corner, max(left, up)))[1]
                s = sizes[k]
                around = 6 * s[y, x - 1] + 5 * s[y - 1, x] + 5 * s[y - 1, x + 1]
                around += 2 * (s[y - 1, x - 1] + s[y, x - 2] + s[y - 2, x])
                level = sum(int(around >= t) for t in thresholds[k])
                signed = sum(before >= t for t in (-9, -4, -1, 0, 1, 2, 5, 10))
                symbol = int(values[k, y - 2, x - 2] - guess) % 256
                found.append((k, 9 * level + signed, symbol))
                before = (symbol + 128) % 256 - 128
                sizes[k, y, x] = abs(before)
    return found
