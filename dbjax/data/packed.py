"""CIFAR images as packed for this project's measurements: `.npz` files of entropy-coded pixels.

An image is three planes, green, red minus green and blue minus green, modulo 256. A pixel is
predicted from its left, upper and upper-left neighbours; what is stored is the difference, coded by
a range coder of the rANS kind (Duda 2013, arXiv 1311.2540) under one of 144 contexts of its plane:
how large the differences around it were (16 levels), and that of the plane before (9 levels). The
coders of all images read one stream of 16-bit words in turn.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from tqdm.auto import tqdm

_SIDE = 32
# Cells of the margin around an image, which hold zeros: above and left as far as contexts reach,
# and one to the right.
_MARGIN = 2
_PROBABILITY_BITS = 14
_SMALLEST_STATE = 1 << 16
_SIGNED_LEVELS = np.array([-9, -4, -1, 0, 1, 2, 5, 10])
# Row and column to the pixel, and the weight of the difference there.
_NEIGHBOURS = ((0, -1, 6), (-1, 0, 5), (-1, 1, 5), (-1, -1, 2), (0, -2, 2), (-2, 0, 2))


def unpack(arrays: Mapping[str, np.ndarray]) -> UInt8[np.ndarray, "size 32 32 3"]:
    """Decodes images in RGB, all side by side: some 6 s and 1 GiB for 25,000.

    Args:
      arrays: `words` uint16 `[words]`, `state` uint32 `[size]`, `freq` `[3, 144, 256]` and `thr`
        `[3, 15]`.

    Raises:
      KeyError: an array is missing.
      ValueError: the arrays do not belong together, or are cut short.
    """
    words, thresholds = arrays["words"], arrays["thr"]
    state = arrays["state"].astype(np.int64)
    frequency = arrays["freq"].astype(np.int64)
    if frequency.shape != (3, 144, 256) or (frequency.sum(axis=-1) != 1 << _PROBABILITY_BITS).any():
        raise ValueError("the frequencies are not those of 3 planes and 144 contexts")
    start = np.cumsum(frequency, axis=-1) - frequency
    symbols = np.tile(np.arange(256, dtype=np.uint8), 3 * 144)
    symbol = np.repeat(symbols, frequency.reshape(-1)).reshape(3, 144, 1 << _PROBABILITY_BITS)

    wide = (3, _SIDE + _MARGIN, _SIDE + _MARGIN + 1, len(state))
    planes, magnitudes = np.zeros(wide, np.int16), np.zeros(wide, np.int16)
    taken = 0
    for row in tqdm(range(_MARGIN, _SIDE + _MARGIN), desc="unpack", leave=False, disable=None):
        for column in range(_MARGIN, _SIDE + _MARGIN):
            before = np.zeros(len(state), np.int16)
            for k in range(3):
                size, plane = magnitudes[k], planes[k]
                around = sum(w * size[row + dy, column + dx] for dy, dx, w in _NEIGHBOURS)
                context = 9 * np.searchsorted(thresholds[k], around, side="right")
                context += np.searchsorted(_SIGNED_LEVELS, before, side="right")

                slot = state & (1 << _PROBABILITY_BITS) - 1
                found = symbol[k, context, slot]
                state = frequency[k, context, found] * (state >> _PROBABILITY_BITS)
                state += slot - start[k, context, found]
                low = np.flatnonzero(state < _SMALLEST_STATE)
                state[low] = state[low] << 16 | words[taken : taken + len(low)]
                taken += len(low)

                before = found.view(np.int8).astype(np.int16)
                left, up = plane[row, column - 1], plane[row - 1, column]
                corner = plane[row - 1, column - 1]
                least, most = np.minimum(left, up), np.maximum(left, up)
                guess = np.clip(left + up - corner, least, most)
                plane[row, column] = (guess + before) & 255
                size[row, column] = np.abs(before)
    if taken != len(words):
        raise ValueError(f"{len(words) - taken} words of pixels are left over")
    green, red, blue = planes[:, _MARGIN:, _MARGIN:-1].astype(np.uint8)
    pixels = np.stack([red + green - np.uint8(128), green, blue + green - np.uint8(128)], axis=-1)
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
