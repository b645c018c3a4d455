"""What a run has left behind, as `experiments.report` reads it: settings, results, predictions."""

import base64
import dataclasses
import functools
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dbjax import pictures
from dbjax.build import read_settings
from dbjax.catalogue import GENERATIVE, TEXT
from dbjax.errors import SettingError, require
from dbjax.masked_text import Revealing
from dbjax.metrics.classification import Reliability, reliability
from dbjax.monitor import read_journal
from dbjax.noise import NoiseProcess
from dbjax.partition import Grid, Partition, grid_at, make_partition
from dbjax.refined_text import Refining
from dbjax.workdir import read_config

FAMILIES = {
    "dit": "diffusion transformer",
    "mlp": "residual MLP",
    "vit": "vision transformer",
    "plain_vit": "plain vision transformer",
    "noprop_blocks": "row of NoProp's networks",
    "masked_lm": "masked language model",
    "ar_lm": "language model that denoises next tokens",
    "plain_ar": "plain language model",
    "recurrent_lm": "recurrent language model that denoises next tokens",
    "huginn": "language model of recurrent depth",
}
LOSSES = {
    "dit": pictures.SQUARED_ERROR,
    "mlp": pictures.SQUARED_ERROR,
    "vit": "cross entropy",
    "plain_vit": "cross entropy",
    "noprop_blocks": "cross entropy",
    "noprop_backprop": "cross entropy",
    "masked_lm": "nats per token",
    **dict.fromkeys(("ar_lm", "plain_ar", "recurrent_lm", "huginn"), "cross entropy"),
}
"""What families minimise; one that is not here has a loss of its own."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run as its folder tells it.

    Attributes:
        folder: where it lies, as the user named it.
        name: what to call it.
        config: sections and their settings.
        evaluation: `evaluation.json`.
        journal: rows of its blocks' `metrics.jsonl`.
        noise, partition, grid: as it was trained and sampled.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    journal: Sequence[Mapping[str, Any]]
    noise: NoiseProcess
    partition: Partition
    grid: Grid

    @property
    def num_blocks(self) -> int:
        return self.partition.num_blocks

    @property
    def steps(self) -> list[int]:
        """Each block's own steps."""
        return [int(step) for step in self.evaluation["steps"].values()]

    @property
    def family(self) -> str:
        """In words, if there are any."""
        family: str = self.config["family"]
        return FAMILIES.get(family, family.replace("_", " "))

    @property
    def loss(self) -> str:
        """What was minimised, in words."""
        name = LOSSES.get(self.config["family"], f"that of {self.family}")
        sections = [self.config.get(name, {}) for name in ("classification", "autoregressive")]
        weighted = any(own.get("weight", "none") != "none" for own in sections)
        return f"weighted {name}" if weighted else name

    def value(self, key: str) -> Any:
        """A measured value, by its key in `evaluation.json` with dots between levels.

        One more is made of them: `train_seconds`, all steps of all blocks, one after another.
        """
        if key == "train_seconds":
            return sum(self.steps) * self.evaluation["seconds_per_step"]
        value = self.evaluation
        for name in key.split("."):
            value = value[name]
        return value


@dataclasses.dataclass(frozen=True)
class GenerativeRun(Run):
    """A run whose model is sampled from.

    Attributes:
        is_points: whether samples are points of a plane and not images.
        is_labelled: whether samples were drawn of given classes.
    """

    is_points: bool
    is_labelled: bool

    def picture(self, name: str) -> str:
        """`samples/<name>.png` as a data URL."""
        return _data_url((self.folder / "samples" / f"{name}.png").read_bytes())


@dataclasses.dataclass(frozen=True)
class ClassifierRun(Run):
    """A run whose model classifies.

    Attributes:
        predictions: the arrays of `predictions.npz`.
    """

    predictions: Mapping[str, np.ndarray]

    @functools.cached_property
    def predicted(self) -> np.ndarray:
        """[size] likeliest class of each test image."""
        found: np.ndarray = self.predictions["probabilities"].argmax(axis=1)
        return found

    @property
    def reliability(self) -> Reliability:
        return reliability(self.predictions["probabilities"], self.predictions["label"])

    @property
    def mistakes(self) -> list[dict[str, Any]]:
        """Test images it is wrong about, the most confident first: picture, classes, confidence."""
        rows = []
        for index, shown in zip(
            self.predictions["mistakes"], self.predictions["mistakes_shown"], strict=True
        ):
            buffer = io.BytesIO()
            Image.fromarray(shown).save(buffer, format="png", optimize=True)
            rows.append(
                {
                    "index": index,
                    "picture": _data_url(buffer.getvalue()),
                    "label": self.predictions["label"][index],
                    "predicted": self.predicted[index],
                    "confidence": self.predictions["probabilities"][index].max(),
                }
            )
        return rows


@dataclasses.dataclass(frozen=True)
class TextRun(Run):
    """A run whose model writes text.

    Attributes:
        samples: a few of its texts.
        real: a few test texts.
        coming: how one of its texts came to be, by blocks.
    """

    samples: Sequence[str]
    real: Sequence[str]
    coming: Revealing | Refining | None


def read_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        SettingError: if it has not been trained, or not evaluated.
    """
    config = read_config(folder)
    particular = ["predictions.npz"]
    if config.family in GENERATIVE:
        drawn = ("samples.npz", "samples.png", "real.png", "path.png")
        particular = [f"samples/{name}" for name in drawn]
    elif config.family in TEXT:
        particular = ["samples/shown.json"]
    missing = [name for name in ("evaluation.json", *particular) if not (folder / name).is_file()]
    if missing:
        raise SettingError(f"{folder} has no {missing[0]}; run experiments.evaluate first")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    settings = read_settings(config)
    noise, sampling = settings.noise, settings.sampling
    partition = make_partition(settings.partition, noise, sum(evaluation["layers"]))
    blocks = partition.num_blocks
    # A grid that was measured on the blocks is known from the evaluation alone.
    walked = evaluation.get(f"walk_{noise.level_name}")
    grid = grid_at(partition, noise, walked) if walked else sampling.make_grid(partition, noise)
    facts: dict[str, Any] = {
        "folder": folder,
        "name": "end to end" if blocks == 1 else f"{blocks} blocks",
        "config": config.to_dict(),
        "evaluation": evaluation,
        "journal": read_journal(folder),
        "noise": noise,
        "partition": partition,
        "grid": grid,
    }
    if config.family in TEXT:
        shown = json.loads((folder / "samples" / "shown.json").read_text())
        revealing, refining = shown.pop("revealing"), shown.pop("refining")
        coming = revealing and Revealing(**revealing)
        return TextRun(**facts, **shown, coming=coming or (refining and Refining(**refining)))
    if config.family not in GENERATIVE:
        if config.family not in FAMILIES:
            # It need not be trained end to end, nor tell by its blocks what it is.
            facts["name"] = config.family.replace("_", " ")
        with np.load(folder / "predictions.npz") as arrays:
            return ClassifierRun(**facts, predictions=dict(arrays))
    with zipfile.ZipFile(folder / "samples" / "samples.npz") as arrays:
        # The header alone: there may be 50,000 images behind it.
        with arrays.open("image.npy") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        is_labelled = "label.npy" in arrays.namelist()
    return GenerativeRun(**facts, is_points=len(shape) == 2, is_labelled=is_labelled)


def paired(run: ClassifierRun, other: ClassifierRun) -> dict[str, Any]:
    """Test images by which of two runs is right, and what that says of their accuracies.

    Accuracies are about equal unless the images that one run alone is right about outnumber those
    of the other by two standard deviations of a fair coin (McNemar 1947).

    Raises:
        SettingError: if the runs were tested on different images.
    """
    label = run.predictions["label"]
    same = np.array_equal(label, other.predictions["label"])
    require(same, "test images of the runs", "different", "the same for both")
    ours, theirs = run.predicted == label, other.predicted == label
    counts = {
        "both": int(np.sum(ours & theirs)),
        "run": int(np.sum(ours & ~theirs)),
        "other": int(np.sum(theirs & ~ours)),
        "neither": int(np.sum(~ours & ~theirs)),
    }
    more, apart = counts["run"] - counts["other"], counts["run"] + counts["other"]
    words = {True: "about equal", False: "better" if more > 0 else "worse"}
    return {**counts, "verdict": words[abs(more) <= 2 * math.sqrt(apart)]}


def confused(confusion: np.ndarray, count: int = 3) -> list[tuple[int, int, int]]:
    """The most frequent mistakes: class, predicted class, number of images."""
    wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = (divmod(int(i), len(confusion)) for i in order)
    return [(*pair, int(wrong[pair])) for pair in pairs if wrong[pair]]


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
