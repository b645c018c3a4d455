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
    """Mirrors each image left to right with probability one half, in place."""
    chosen = rng.random(len(images)) < 0.5
    images[chosen] = images[chosen, :, ::-1]
    return images


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
    planes = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    operations = list_operations(magnitude, *images.shape[1:3])
    for _ in range(num_ops):
        drawn = rng.integers(len(operations), size=len(images))
        for number in np.unique(drawn):
            chosen = np.flatnonzero(drawn == number)
            planes[chosen] = operations[number](planes[chosen])
    return np.ascontiguousarray(np.moveaxis(planes, 1, -1))


@functools.lru_cache
def list_operations(magnitude: int, height: int, width: int) -> list[Operation]:
    """The 14 operations in torchvision's order, each twice: in one direction and in the other.

    Each takes and returns uint8 `[batch, channels, height, width]`.
    """
    share = magnitude / (BINS - 1)
    operations: list[Operation] = []
    for sign in (1, -1):
        warp = functools.partial(_warp, height=height, width=width)
        shear, factor, angle = sign * 0.3 * share, 1 + sign * 0.9 * share, sign * 30 * share
        right, down = (sign * float(int(150 / 331 * side * share)) for side in (width, height))
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        x, y = width / 2, height / 2
        operations += [
            lambda planes: planes,
            warp((1.0, shear, 0.0), (0.0, 1.0, 0.0)),
            warp((1.0, 0.0, 0.0), (shear, 1.0, 0.0)),
            warp((1.0, 0.0, -right), (0.0, 1.0, 0.0)),
            warp((1.0, 0.0, 0.0), (0.0, 1.0, -down)),
            warp((cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)),
            functools.partial(_brightness, factor=factor),
            functools.partial(_color, factor=factor),
            functools.partial(_contrast, factor=factor),
            functools.partial(_sharpness, factor=factor),
            functools.partial(_posterize, bits=8 - round(4 * share)),
            functools.partial(_solarize, threshold=255 * (1 - share)),
            _autocontrast,
            _equalize,
        ]
    return operations


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
    mixed = start + np.float32(factor) * (planes - start)
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
    stretched = np.clip(planes * scale - low * scale, 0, 255).astype(np.uint8)
    return np.where(spread > 0, stretched, planes)


def _equalize(planes: np.ndarray) -> np.ndarray:
    """Spreads the levels of each channel of each image evenly, as Pillow does."""
    pixels = planes.reshape(-1, planes.shape[2] * planes.shape[3])
    levels = pixels + 256 * np.arange(len(pixels))[:, np.newaxis]
    counts = np.bincount(levels.reshape(-1), minlength=256 * len(pixels)).reshape(-1, 256)
    brightest = np.take_along_axis(counts, pixels.max(axis=1, keepdims=True), axis=1)
    step = (pixels.shape[1] - brightest) // 255
    below = np.cumsum(counts, axis=1) - counts
    table = np.minimum((step // 2 + below) // np.maximum(step, 1), 255)
    table = np.where(step > 0, table, np.arange(256)).astype(np.uint8)
    return table.reshape(-1)[levels].reshape(planes.shape)


def _grey(planes: np.ndarray) -> Int[np.ndarray, "batch 1 height width"]:
    """Luminance (ITU-R 601), 0 to 255."""
    if planes.shape[1] == 1:
        return planes.astype(np.int32)
    red, green, blue = np.moveaxis(planes.astype(np.int32), 1, 0)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000 >> 16)[:, np.newaxis]
