"""Augmentation of training images on the host: mirroring, cropping, RandAugment.

Each function takes whole batches and draws from the generator that it is handed, so that a batch is
the same whoever reads it.

RandAugment (Cubuk et al. 2020, arXiv 1909.13719) has the operations and magnitudes of torchvision,
with nearest neighbours and black outside the image, and gives the pixels that Pillow's functions
give. All images of a batch that drew the same operation go through it at once: Pillow, one image at
a time and without giving other threads a turn, takes several times as long.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Shaped, UInt8

BINS = 31
"""Magnitudes run from 0 to `BINS - 1`."""

Images = UInt8[np.ndarray, "batch height width channels"]
Operation = Callable[[np.ndarray], np.ndarray]


def flip(
    images: Shaped[np.ndarray, "batch height width channels"], rng: np.random.Generator
) -> Shaped[np.ndarray, "batch height width channels"]:
    """Mirrors each image left to right with probability one half, in place if contiguous."""
    chosen = rng.random(len(images)) < 0.5
    size, height, width, channels = images.shape
    # By whole rows: numpy moves the few bytes of one pixel at a time far more slowly.
    rows = images.reshape(size, height, width * channels)
    mirrored = np.arange(width * channels).reshape(width, channels)[::-1].reshape(-1)
    rows[chosen] = rows[chosen].take(mirrored, axis=2)
    return rows.reshape(images.shape)


def crop(
    images: Shaped[np.ndarray, "batch height width channels"],
    rng: np.random.Generator,
    *,
    padding: int,
) -> Shaped[np.ndarray, "batch height width channels"]:
    """Shifts each image by up to `padding` pixels in each direction; zeros move in."""
    size, height, width, _ = images.shape
    padded = np.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    top, left = rng.integers(2 * padding + 1, size=(2, size))
    return np.ascontiguousarray(np.moveaxis(windows[np.arange(size), top, left], 1, -1))


def rand_augment(
    images: Images, rng: np.random.Generator, *, num_ops: int, magnitude: int
) -> Images:
    """Puts each image through `num_ops` operations of its own.

    Args:
      images: of one or three channels; the operation on colours leaves one channel as it is.
      rng: draws operations, with replacement, and their directions.
      num_ops: operations one after the other.
      magnitude: of all of them, 0 to `BINS - 1`; 0 leaves out all but auto-contrast, equalising
        and what solarising does to white.
    """
    operations = list_operations(magnitude, *images.shape[1:3])
    # Those that know no direction are in the list twice, but take their images all at once.
    distinct = list(dict.fromkeys(operations))
    number = np.array([distinct.index(operation) for operation in operations])
    size, height, width, channels = images.shape
    planes = np.empty((size, channels, height, width), images.dtype)
    # Channel by channel, in and out: several times as fast as numpy's copy of a moved axis.
    for channel in range(channels):
        planes[:, channel] = images[..., channel]
    place = np.arange(size)
    for _ in range(num_ops):
        drawn = number[rng.integers(len(operations), size=size)][place]
        # Images that drew the same operation come to lie side by side.
        order = np.argsort(drawn)
        planes, place = planes[order], place[order]
        ends = np.cumsum(np.bincount(drawn, minlength=len(distinct))).tolist()
        for operation, start, end in zip(distinct, [0, *ends[:-1]], ends, strict=True):
            if start < end:
                planes[start:end] = operation(planes[start:end])
    planes = planes[np.argsort(place)]
    result = np.empty_like(images)
    for channel in range(channels):
        result[..., channel] = planes[:, channel]
    return result


@functools.lru_cache
def list_operations(magnitude: int, height: int, width: int) -> list[Operation]:
    """The 14 operations in torchvision's order, each twice: in one direction and in the other.

    Each takes and returns uint8 `[batch, channels, height, width]`.
    """
    share = magnitude / (BINS - 1)
    undirected: list[Operation] = [
        functools.partial(_posterize, bits=8 - round(4 * share)),
        functools.partial(_solarize, threshold=255 * (1 - share)),
        _autocontrast,
        _equalize,
    ]
    operations: list[Operation] = []
    for sign in (1, -1):
        warp = functools.partial(_warp, height=height, width=width)
        shear, factor, angle = sign * 0.3 * share, 1 + sign * 0.9 * share, sign * 30 * share
        right, down = (sign * float(int(150 / 331 * side * share)) for side in (width, height))
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        x, y = width / 2, height / 2
        operations += [
            _identity,
            warp((1.0, shear, 0.0), (0.0, 1.0, 0.0)),
            warp((1.0, 0.0, 0.0), (shear, 1.0, 0.0)),
            warp((1.0, 0.0, -right), (0.0, 1.0, 0.0)),
            warp((1.0, 0.0, 0.0), (0.0, 1.0, -down)),
            warp((cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)),
            functools.partial(_brightness, factor=factor),
            functools.partial(_color, factor=factor),
            functools.partial(_contrast, factor=factor),
            functools.partial(_sharpness, factor=factor),
            *undirected,
        ]
    return operations


def _identity(planes: np.ndarray) -> np.ndarray:
    return planes


def _warp(
    x: tuple[float, float, float], y: tuple[float, float, float], *, height: int, width: int
) -> Operation:
    """An affine map, as rows of the matrix that takes a pixel to where its colour comes from."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    # The margin takes ties, such as the middle of a rotation, to one side whatever was rounded.
    from_x, from_y = (np.floor(a * columns + b * rows + c + 1e-9).astype(int) for a, b, c in (x, y))
    outside = (from_x < 0) | (from_x >= width) | (from_y < 0) | (from_y >= height)
    source = np.where(outside, 0, from_y * width + from_x)
    inside = (~outside).astype(np.uint8)
    return lambda planes: planes.reshape(*planes.shape[:2], -1).take(source, axis=2) * inside


def _blend(planes: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    """`other` at factor 0, the image at 1, and beyond."""
    start = other.astype(np.float32)
    mixed = planes.astype(np.float32)
    mixed -= start
    mixed *= np.float32(factor)
    mixed += start
    return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)


def _brightness(planes: np.ndarray, factor: float) -> np.ndarray:
    return _blend(planes, np.zeros(()), factor)


def _color(planes: np.ndarray, factor: float) -> np.ndarray:
    return _blend(planes, _grey(planes), factor)


def _contrast(planes: np.ndarray, factor: float) -> np.ndarray:
    mean = np.floor(_grey(planes).mean(axis=(1, 2, 3), keepdims=True) + 0.5)
    return _blend(planes, mean, factor)


def _sharpness(planes: np.ndarray, factor: float) -> np.ndarray:
    """Away from the mean of a pixel and its neighbours, itself five times; borders stay."""
    wide = planes.astype(np.uint16)
    rows = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    smooth = planes.copy()
    smooth[..., 1:-1, 1:-1] = (total + 6) // 13
    return _blend(planes, smooth, factor)


def _posterize(planes: np.ndarray, bits: int) -> np.ndarray:
    return planes & np.uint8(256 - (1 << (8 - bits)))


def _solarize(planes: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(planes < threshold, planes, 255 - planes)


def _autocontrast(planes: np.ndarray) -> np.ndarray:
    """Stretches each channel of each image to the whole range, rounded down as Pillow does."""
    low, high = (extreme(planes, axis=(2, 3), keepdims=True) for extreme in (np.min, np.max))
    spread = np.subtract(high, low, dtype=np.float64)
    scale = 255 / np.maximum(spread, 1)
    levels = np.arange(256)
    stretched = np.clip(levels * scale - low * scale, 0, 255)
    table = np.where(spread > 0, stretched, levels).astype(np.uint8)
    return _look_up(table.reshape(-1, 256), _levels(planes)).reshape(planes.shape)


def _equalize(planes: np.ndarray) -> np.ndarray:
    """Spreads the levels of each channel of each image evenly, as Pillow does."""
    pixels = planes.reshape(-1, planes.shape[2] * planes.shape[3])
    levels = _levels(planes)
    counts = np.bincount(levels.reshape(-1), minlength=256 * len(pixels)).reshape(-1, 256)
    brightest = np.take_along_axis(counts, pixels.max(axis=1, keepdims=True), axis=1)
    step = (pixels.shape[1] - brightest) // 255
    below = np.cumsum(counts, axis=1) - counts
    table = np.minimum((step // 2 + below) // np.maximum(step, 1), 255)
    table = np.where(step > 0, table, np.arange(256)).astype(np.uint8)
    return _look_up(table, levels).reshape(planes.shape)


def _levels(planes: np.ndarray) -> Int[np.ndarray, "planes pixels"]:
    """Pixels as places in a table with 256 entries for each channel of each image."""
    pixels = planes.reshape(-1, planes.shape[2] * planes.shape[3])
    return pixels + 256 * np.arange(len(pixels))[:, np.newaxis]


def _look_up(
    table: UInt8[np.ndarray, "planes 256"], levels: Int[np.ndarray, "planes pixels"]
) -> UInt8[np.ndarray, "planes pixels"]:
    return table.reshape(-1).take(levels)


def _grey(planes: np.ndarray) -> Int[np.ndarray, "batch 1 height width"]:
    """Luminance (ITU-R 601), 0 to 255."""
    if planes.shape[1] == 1:
        return planes.astype(np.int32)
    grey = np.full(planes[:, :1].shape, 0x8000, np.int32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        grey += planes[:, channel : channel + 1] * np.int32(weight)
    return grey >> 16
