"""Diagnoses of classifiers whose answers are known: some read the image, others copy z."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax import diagnostics
from dbjax.classification import (
    Answer,
    ClassificationConfig,
    ClassificationTask,
    LabelDenoiser,
    LabelDenoisingTask,
)
from dbjax.diagnostics import diagnose, predict
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.sampling import Sampler, SamplingConfig

pytestmark = pytest.mark.usefixtures("few_walks", "quick_compilation")
CLASSES, WIDTH = 3, 4
NOISE = LogNormalNoise()
LABEL = np.tile(np.arange(CLASSES, dtype=np.int32), 7)
IMAGES = np.broadcast_to(LABEL[:, None, None, None] + 1, (len(LABEL), 2, 2, 1)).astype(np.uint8)
READS, COPIES = (1.0, 0.0), (0.0, 1.0)


@pytest.fixture
def few_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many walks of each image as of a large test set."""
    monkeypatch.setattr(diagnostics, "WALKS", 2 * len(LABEL))


class FakeNetwork:
    """Logits are `read` times the class that is written in the image, plus `copy` times z."""

    depth, width = 2, WIDTH

    def __init__(self, *skills: tuple[float, float], largest_z: float = np.inf) -> None:
        self.skills, self.largest_z = skills, largest_z

    def init(self, key: jax.Array, layers: Any) -> Any:
        skill = jnp.array([self.skills[i] for i in layers], jnp.float32)
        return {"interface": {"table": jnp.eye(CLASSES, WIDTH)}, "layers": skill}

    def classify(self, params: Any, z: Any, c: Any, image: Any, **_: Any) -> Answer:
        read, copy = jnp.sum(params["layers"], axis=0)
        written = jax.nn.one_hot(image[:, 0, 0, 0].astype(int) - 1, CLASSES)
        # Lost, and of one mind, where z is larger than it may be.
        lost = jnp.max(jnp.abs(z), axis=1, keepdims=True) > self.largest_z
        return Answer(jnp.where(lost, 0.0, 20 * (read * written + copy * z[:, :CLASSES])))

    def label_table(self, params: Any) -> jax.Array:
        return params["interface"]["table"]


def make(network: FakeNetwork, num_blocks: int = 2) -> tuple[LabelDenoisingTask, dict[int, Any]]:
    partition = make_partition(PartitionConfig(num_blocks), NOISE, len(network.skills))
    task = LabelDenoisingTask(network, NOISE, partition, ClassificationConfig())
    return task, {b: task.init(jax.random.key(0), b) for b in range(num_blocks)}


def diagnosis(network: FakeNetwork, num_blocks: int = 2, images: np.ndarray = IMAGES) -> Any:
    task, blocks = make(network, num_blocks)
    config = SamplingConfig(num_steps=num_blocks, batch_size=32)
    return diagnose(task, config, blocks, images, LABEL)


def column(rows: list[dict[str, Any]], key: str) -> list[Any]:
    return [row[key] for row in rows]


def test_the_first_reads_and_the_second_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    # Walks of two steps, recorded 11 of the 21 images at a time.
    monkeypatch.setattr(diagnostics, "RECORDED", 22)
    found = diagnosis(FakeNetwork(READS, COPIES))
    walk = found["walk"]
    assert found["num_images"] == len(LABEL)
    assert column(walk, "step") == [1, 2]
    assert column(walk, "block") == [0, 1]
    np.testing.assert_allclose(column(walk, "sigma"), [80, 0.002], rtol=1e-6)
    assert column(walk, "accuracy") == column(walk, "oracle") == [1, 1]
    assert walk[0]["image_only"] == 1
    assert 0.1 < walk[1]["image_only"] < 0.6, "a copy of noise is a guess"
    alone, without_second = found["without_block"]
    assert (alone["block"], without_second["block"]) == (0, 1)
    assert 0.1 < alone["accuracy"] < 0.6
    assert without_second["accuracy"] == 1


def test_the_first_is_lost_and_the_second_reads() -> None:
    """A noise of 80 is too much for either; without the first, walks start with less."""
    blank = IMAGES.copy()
    hidden = (LABEL > 0) & (np.arange(len(LABEL)) < 6)
    blank[hidden] = 0  # read as no class, answered with the first
    found = diagnosis(FakeNetwork(READS, READS, largest_z=3.0), images=blank)
    readable = pytest.approx(1 - hidden.mean())
    first, second = found["walk"]
    assert first["accuracy"] == first["oracle"] == first["image_only"] == pytest.approx(1 / 3)
    assert second["accuracy"] == second["oracle"] == second["image_only"] == readable
    assert column(found["without_block"], "accuracy") == [readable, pytest.approx(1 / 3)]


def test_numbers_of_steps_and_of_noises() -> None:
    """The first block hears noise in z, so that the mean of several walks is right more often."""
    found = diagnosis(FakeNetwork((0.05, 0.001), (0, 0)), num_blocks=1)
    assert found["without_block"] == [], "nothing is left of one block"
    steps, noises = found["by_num_steps"], found["by_num_noises"]
    assert column(steps, "num_steps") == [1, 2, 4]
    assert column(steps, "layer_evaluations") == [2, 4, 8]
    assert column(noises, "num_noises") == [1, 2, 4, 8]
    assert column(noises, "layer_evaluations") == [2, 4, 8, 16]
    assert noises[0]["accuracy"] == pytest.approx(found["walk"][-1]["accuracy"])
    assert noises[0]["accuracy"] < noises[-1]["accuracy"]


def test_predictions_are_of_each_walk_and_leave_no_example_out() -> None:
    """21 examples in batches of 8."""
    task, blocks = make(FakeNetwork((0.05, 0.001), (0.05, 0.5)))
    sampler = Sampler(task, SamplingConfig(num_steps=2, batch_size=8))
    seen: list[int] = []
    one = predict(sampler, blocks, IMAGES, seed=5, progress=seen.append)
    two = predict(sampler, blocks, IMAGES, num_noises=2, seed=5)
    assert one.shape == (1, len(LABEL), CLASSES)
    assert two.shape == (2, len(LABEL), CLASSES)
    assert sum(seen) == len(LABEL)
    np.testing.assert_allclose(two.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(one[0], two[0])
    assert np.abs(two[0] - two[1]).max() > 1e-6


def test_only_tasks_with_a_noisy_label_walk() -> None:
    network = FakeNetwork(READS, COPIES)
    task, _ = make(network)
    assert isinstance(task, LabelDenoiser)
    assert not isinstance(ClassificationTask(network, NOISE, task.partition), LabelDenoiser)
