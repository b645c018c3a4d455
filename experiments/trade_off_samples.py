"""Samples of every number of blocks, from the same noise: what a curve of quality does not show."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dbjax.build import build
from dbjax.data import DatasetInfo
from dbjax.errors import SettingError, require
from dbjax.pictures import STYLE, pixels
from dbjax.workdir import read_config

SHOWN = 12
"""Samples in a row."""


@matplotlib.rc_context(STYLE)
def samples_figure(folders: Mapping[str, Mapping[int, Path]]) -> Figure:
    """A panel for each data set: real images, and a row of samples for each number of blocks.

    Args:
        folders: of evaluated runs, by data set and number of blocks. Runs of one data set and seed
            start from the same noise, a column for each, and have the same labels.

    Raises:
        SettingError: if a run has no samples, or none that are images.
    """
    rows = max(map(len, folders.values())) + 1
    figure = Figure(figsize=(6.4, (0.48 * rows + 0.3) * len(folders)), layout="compressed")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(folders), 1, squeeze=False)[:, 0]
    for axes, (data, runs) in zip(panels, folders.items(), strict=True):
        dataset = build(read_config(next(iter(runs.values())))).dataset
        shape = dataset.info.image_shape
        require(len(shape) == 3, "shape of an example", shape, "(height, width, channels)")
        drawn = {b: _samples(runs[b]) for b in sorted(runs)}
        some = dataset.source.read(np.arange(min(len(dataset.source), 50 * SHOWN)))
        labels = next(iter(drawn.values()))["label"].tolist()
        real = some["image"][list(_of_classes(some["label"], labels))]
        strips = [
            _strip(images, dataset.info) for images in (real, *(x["image"] for x in drawn.values()))
        ]
        axes.imshow(np.concatenate(strips), interpolation="nearest")
        names = ["real", *(f"B = {b}" for b in drawn)]
        axes.set_yticks([(i + 0.5) * len(strips[0]) for i in range(len(strips))], names)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(data, loc="left")
    return figure


def _samples(folder: Path) -> dict[str, np.ndarray]:
    """The first samples of a run, and their labels."""
    file = folder / "samples" / "samples.npz"
    if not file.is_file():
        raise SettingError(
            f"{file} is missing; allowed: runs that experiments.evaluate has drawn from"
        )
    with np.load(file) as found:
        return {key: found[key][:SHOWN] for key in ("image", "label")}


def _of_classes(labels: np.ndarray, wanted: Sequence[int]) -> Iterator[int]:
    """An index for each wanted label, none twice; of another label where there is none left."""
    left = list(range(len(labels)))
    for label in wanted:
        index = next((i for i in left if labels[i] == label), left[0])
        left.remove(index)
        yield index


def _strip(images: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Images side by side with gaps around them: uint8 [height, width, 4]."""
    tiles = np.pad(pixels(images, info), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.concatenate(list(tiles), axis=1)
