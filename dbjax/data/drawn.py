"""Images drawn by program, in three degrees of difficulty: shapes, textures, compositions.

Every image is 16 x 16 in colour, drawn from a seed: nothing is downloaded, and any number can be
had. Distances are in half widths of the image, whose middle is the origin.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, UInt8

from dbjax.data.dataset import Dataset, in_memory_dataset

SIZE = 16
SPLITS = {"train": 20_000, "test": 4_000}
KINDS = 5

Planes = Float[np.ndarray, "images #height #width"]
Pictures = Float[np.ndarray, "images height width 3"]


def load_drawn(name: str, split: str) -> Dataset:
    """Draws a set, uint8 `[16, 16, 3]`, of five classes.

    Args:
      name: `shapes`, a disk, square, triangle, ring or cross on a plain ground; `textures`,
        stripes, checks, dots, circles or crossed waves that fill the image; `compositions`, a
        shape, which is the class, with a texture before another shape before another texture.
      split: `train` (20,000 images) or `test` (4,000 others).
    """
    rng = np.random.default_rng([list(DRAWN).index(name), list(SPLITS).index(split)])
    labels = rng.integers(KINDS, size=SPLITS[split])
    images = _levels(DRAWN[name](rng, labels))
    # Scales are of the set as it is drawn, not of a split.
    scale = _levels(DRAWN[name](np.random.default_rng(0), np.arange(2_000) % KINDS))
    return in_memory_dataset(
        name,
        images,
        labels,
        num_classes=KINDS,
        mean=float(scale.mean()),
        std=float(scale.std()),
        max_value=255.0,
    )


def draw_shapes(rng: np.random.Generator, kinds: Int[np.ndarray, " images"]) -> Pictures:
    """One shape on a plain ground, both of any colour; values in [0, 1]."""
    ground, colour = _contrasting(rng, len(kinds))
    return _over(_plain(ground), _plain(colour), _shape(rng, kinds, size=(0.35, 0.7)))


def draw_textures(rng: np.random.Generator, kinds: Int[np.ndarray, " images"]) -> Pictures:
    """A texture of two colours."""
    return _textured(rng, kinds)


def draw_compositions(rng: np.random.Generator, kinds: Int[np.ndarray, " images"]) -> Pictures:
    """A texture, before it a shape with a texture, and before that one of the given kind."""

    def another() -> Int[np.ndarray, " images"]:
        return rng.integers(KINDS, size=len(kinds))

    picture = _textured(rng, another())
    for shape in (another(), kinds):
        picture = _over(picture, _textured(rng, another()), _shape(rng, shape, size=(0.4, 0.6)))
    return picture


DRAWN: dict[str, Callable[[np.random.Generator, Int[np.ndarray, " images"]], Pictures]] = {
    "shapes": draw_shapes,
    "textures": draw_textures,
    "compositions": draw_compositions,
}


def _shape(
    rng: np.random.Generator, kinds: Int[np.ndarray, " images"], size: tuple[float, float]
) -> Planes:
    """How much of each pixel a shape covers, of random place, size and direction."""
    count = len(kinds)
    radius = _each(rng, count, *size)
    x, y = _turned(rng, count, _each(rng, count, -0.35, 0.35), _each(rng, count, -0.35, 0.35))
    distance = np.hypot(x, y)
    edges = np.stack(
        [
            distance - radius,
            np.maximum(abs(x), abs(y)) - 0.8 * radius,
            np.maximum(abs(x) * 3**0.5 / 2 + y / 2, -y) - 0.6 * radius,
            abs(distance - 0.8 * radius) - 0.22 * radius,
            np.maximum(
                np.minimum(abs(x), abs(y)) - 0.27 * radius, np.maximum(abs(x), abs(y)) - radius
            ),
        ]
    )
    edge = edges[kinds, np.arange(count)]
    # Half a pixel on either side of the edge is covered in part.
    covered: Planes = np.clip(0.5 - edge * SIZE / 2, 0, 1)
    return covered


def _textured(rng: np.random.Generator, kinds: Int[np.ndarray, " images"]) -> Pictures:
    """A texture of two colours, of random scale, direction and phase."""
    count = len(kinds)
    x, y = _turned(rng, count, _each(rng, count, -1.0, 1.0), _each(rng, count, -1.0, 1.0))
    pace = _each(rng, count, 4.0, 8.0)
    sines, cosines = np.sin(pace * x), np.sin(pace * y)
    waves = np.stack(
        [
            sines,
            np.sign(sines) * np.sign(cosines),
            2 * np.maximum(sines + cosines - 0.6, -0.5),
            np.sin(2 * pace * np.hypot(x, y)),
            (sines + np.sin(0.6 * pace * (x + y))) / 1.5,
        ]
    )
    share = np.clip(0.5 + 0.5 * waves[kinds, np.arange(count)], 0, 1)
    first, second = _contrasting(rng, count)
    return _over(_plain(first), _plain(second), share)


def _turned(rng: np.random.Generator, count: int, x0: Planes, y0: Planes) -> tuple[Planes, Planes]:
    """Coordinates of all pixels, seen from a place and a random direction."""
    axis = (np.arange(SIZE) + 0.5) * 2 / SIZE - 1
    x, y = axis[None, None, :] - x0, axis[None, :, None] - y0
    angle = _each(rng, count, 0.0, 2 * np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _each(rng: np.random.Generator, count: int, low: float, high: float) -> Planes:
    return rng.uniform(low, high, (count, 1, 1))


def _contrasting(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two colours of each image, [images, 3], far enough apart to be told apart."""
    first = rng.uniform(0, 1, (count, 3))
    second = rng.uniform(0, 1, (count, 3))
    channel = rng.integers(3, size=(count, 1))
    # In one channel they are half the range apart, or more.
    away = (first + rng.uniform(0.5, 1, (count, 3)) * np.where(first < 0.5, 1, -1)).clip(0, 1)
    return first, np.where(np.arange(3) == channel, away, second)


def _plain(colour: np.ndarray) -> Pictures:
    return np.broadcast_to(colour[:, None, None], (len(colour), SIZE, SIZE, 3))


def _over(below: Pictures, above: Pictures, share: Planes) -> Pictures:
    """`above` where it covers, by its share of each pixel."""
    return below + share[..., None] * (above - below)


def _levels(pictures: Pictures) -> UInt8[np.ndarray, "images height width 3"]:
    levels: np.ndarray = np.round(255 * pictures).astype(np.uint8)
    return levels
