"""Label-embedding diffusion: targets, weights, bridges, guidance, and the walk; and the twin."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from dbjax.classification import (
    Answer,
    ClassificationConfig,
    ClassificationTask,
    Classifier,
    LabelDenoisingTask,
    LabelNetwork,
    fixed_table,
)
from dbjax.diagnostics import predict
from dbjax.errors import SettingError
from dbjax.noise import LogNormalNoise, expand
from dbjax.partition import PartitionConfig, make_partition
from dbjax.sampling import Sampler, SamplingConfig
from dbjax.task import Task

CLASSES, WIDTH, SHAPE = 3, 4, (2, 2, 1)
NOISE = LogNormalNoise()
TABLE = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype("f4")


class FakeNetwork:
    """Logits are those of the image's first pixels; remembers what it was shown."""

    depth, width = 3, WIDTH

    def init(self, key: jax.Array, layers: Any) -> Any:
        layer = jnp.zeros((len(layers), 1))
        return {"interface": {"labels": jnp.asarray(TABLE)}, "layers": layer}

    def apply(self, params: Any, image: jax.Array) -> jax.Array:
        return image.mean() + params["layers"].sum()

    def classify(self, params: Any, z: Any, c: Any, image: Any, **_: Any) -> Answer:
        self.shown, self.c_noise = image, c.c_noise
        self.estimate = expand(c.c_skip, z) * z + expand(c.c_out, z) * self.apply(params, image)
        return Answer(3 * self.estimate[:, :CLASSES])

    def label_table(self, params: Any) -> jax.Array:
        return params["interface"]["labels"]


def label_task(num_blocks: int = 3, table: Any = None, **config: Any) -> LabelDenoisingTask:
    partition = make_partition(PartitionConfig(num_blocks), NOISE, 3)
    settings = ClassificationConfig(**config)
    return LabelDenoisingTask(
        FakeNetwork(), NOISE, partition, settings, table=table, mean=10.0, std=2.0
    )


def batch(size: int = 6) -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    return {
        "image": jnp.asarray(rng.integers(0, 20, (size, *SHAPE)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, CLASSES, size), jnp.int32),
    }


def test_the_contracts_are_kept() -> None:
    assert isinstance(label_task(), Task)
    assert isinstance(FakeNetwork(), LabelNetwork)


def test_denoising_is_preconditioned_and_images_are_normalised() -> None:
    task = label_task()
    params = task.init(jax.random.key(0), 0)
    z = jnp.arange(8.0).reshape(2, WIDTH)
    sigma = np.array([0.1, 2.0], "f4")
    image = jnp.full((2, *SHAPE), 14, jnp.uint8)
    estimate = task.denoise(params, z, jnp.asarray(sigma), image)
    np.testing.assert_allclose(task.network.shown, 2.0)
    c_skip, c_out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / np.sqrt(sigma**2 + 0.25)
    expected = c_skip[:, None] * np.asarray(z) + c_out[:, None] * 2.0
    np.testing.assert_allclose(task.network.estimate, expected, rtol=1e-5)
    np.testing.assert_allclose(task.network.c_noise, np.log(sigma) / 4, rtol=1e-5)
    np.testing.assert_allclose(estimate.logits, 3 * expected[:, :CLASSES], rtol=1e-5)


@pytest.mark.parametrize("table", [None, np.eye(CLASSES, WIDTH, dtype="f4")])
def test_bridges(table: Any) -> None:
    rows = TABLE if table is None else table
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    z, image = jnp.ones((2, WIDTH)), jnp.zeros((2, *SHAPE), jnp.uint8)
    found = {}
    for bridge in ("soft", "soft_normalised", "hard"):
        task = label_task(table=None if table is None else jnp.asarray(table), bridge=bridge)
        params = task.init(jax.random.key(0), 0)
        estimate = task.denoise(params, z, jnp.ones(2), image)
        found[bridge] = np.asarray(estimate.clean)
        p = scipy.special.softmax(np.asarray(estimate.logits), axis=1)
    np.testing.assert_allclose(found["soft"], p @ rows, rtol=1e-4)
    np.testing.assert_allclose(found["soft_normalised"], p @ unit, rtol=1e-4)
    np.testing.assert_allclose(found["hard"], unit[p.argmax(1)], rtol=1e-4)


def losses(weight: str, level: float, seed: int = 0) -> tuple[float, float]:
    task = label_task(weight=weight)
    u = jnp.full(2, float(NOISE.u_of(level)), jnp.float32)
    loss, metrics = task.loss(task.init(jax.random.key(0), 0), batch(), u, jax.random.key(seed))
    assert float(loss) == float(metrics["loss"])
    return float(loss), float(metrics["cross_entropy"])


def test_weights() -> None:
    w = (0.3**2 + 0.5**2) / (0.3 * 0.5) ** 2
    plain, entropy = losses("none", 0.3)
    assert plain == entropy
    # At one level the example's weight and the batch's mean of weights are the same number.
    for weight in ("edm", "batch_scalar"):
        loss, same_entropy = losses(weight, 0.3)
        assert same_entropy == entropy
        assert loss == pytest.approx(w * entropy, rel=1e-4)


def test_weights_differ_over_an_interval() -> None:
    task = {w: label_task(weight=w) for w in ("edm", "batch_scalar")}
    interval = jnp.array([0.0, 1.0])
    loss = {
        w: float(t.loss(t.init(jax.random.key(0), 0), batch(), interval, jax.random.key(2))[0])
        for w, t in task.items()
    }
    assert abs(loss["edm"] / loss["batch_scalar"] - 1) > 1e-3


def test_targets_are_unit_rows_of_the_label() -> None:
    """At the lowest noise the estimate is the clean embedding."""
    task = label_task()
    params = task.init(jax.random.key(0), 2)
    examples = batch()
    task.loss(params, examples, jnp.array([1.0, 1.0]), jax.random.key(0))
    unit = TABLE / np.linalg.norm(TABLE, axis=1, keepdims=True)
    gap = np.abs(np.asarray(task.network.estimate) - unit[np.asarray(examples["label"])])
    assert gap.max() < 0.02


def test_labels_are_embedded_as_unit_rows() -> None:
    task = label_task()
    label = jnp.array([2, 0])
    found = task.embed_label(task.init(jax.random.key(0), 1), label)
    rows = TABLE[np.asarray(label)]
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_fixed_table_is_not_trained_and_a_learned_one_is() -> None:
    for table in (None, fixed_table(jax.random.key(0), CLASSES, WIDTH)):
        task = label_task(table=table)
        params = task.init(jax.random.key(0), 0)

        def loss(params: Any, task: Any = task) -> jax.Array:
            return task.loss(params, batch(), jnp.array([0.5, 0.9]), jax.random.key(0))[0]

        gradient = jax.grad(loss)(params)["interface"]["labels"]
        assert bool(jnp.any(gradient != 0)) == (table is None)


def test_images_are_hidden_for_guidance() -> None:
    task = label_task(image_dropout=0.5)
    examples = {"image": jnp.full((400, *SHAPE), 14, jnp.uint8), "label": jnp.zeros(400, int)}
    params = task.init(jax.random.key(0), 0)
    task.loss(params, examples, jnp.array([0.0, 1.0]), jax.random.key(0))
    shown = np.asarray(task.network.shown).reshape(400, -1)
    assert set(np.unique(shown)) == {0.0, 2.0}
    assert (shown == shown[:, :1]).all()
    assert 0.4 < (shown[:, 0] == 0).mean() < 0.6


def test_guidance_extrapolates_from_no_image() -> None:
    task = label_task()
    params = task.init(jax.random.key(0), 0)
    z, level = jnp.ones((2, WIDTH)), jnp.ones(2)
    image = jnp.full((2, *SHAPE), 14, jnp.uint8)
    zero = jnp.full((2, *SHAPE), 10, jnp.uint8)

    class PerExample(FakeNetwork):
        def apply(self, params: Any, image: jax.Array) -> jax.Array:
            return image.mean((1, 2, 3))[:, None]

    object.__setattr__(task, "network", PerExample())
    with_image, without = (task.denoise(params, z, level, x).logits for x in (image, zero))
    guided = task.denoise(params, z, level, image, guidance=2.5).logits
    np.testing.assert_allclose(guided, without + 2.5 * (with_image - without), rtol=1e-5)


def test_fixed_tables_have_unit_rows() -> None:
    table = fixed_table(jax.random.key(3), 5, 8)
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, rtol=1e-5)
    assert np.abs(table @ table.T - np.eye(5)).max() < 1


class FakeClassifier:
    def init(self, key: jax.Array, layers: Any) -> Any:
        return {"interface": {"head": jnp.ones(())}, "layers": jnp.zeros((len(layers), 1))}

    def classify(self, params: Any, image: Any, *, key: Any = None, remat: bool = False) -> Any:
        return Answer(params["interface"]["head"] * image.reshape(len(image), -1)[:, :CLASSES])


def test_the_twin_classifies_in_one_step_whatever_the_noise() -> None:
    partition = make_partition(PartitionConfig(1), NOISE, 3)
    task = ClassificationTask(FakeClassifier(), NOISE, partition, mean=10.0, std=2.0)
    assert isinstance(task, Task) and isinstance(FakeClassifier(), Classifier)
    params = task.init(jax.random.key(0), 0)
    examples = batch()
    logits = (np.asarray(examples["image"], "f4").reshape(6, -1)[:, :CLASSES] - 10) / 2
    expected = -np.mean(
        scipy.special.log_softmax(logits, axis=1)[np.arange(6), np.asarray(examples["label"])]
    )
    for interval in ([0.0, 1.0], [0.2, 0.3]):
        loss, metrics = task.loss(params, examples, jnp.array(interval), jax.random.key(0))
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    sampler = Sampler(task, SamplingConfig(num_steps=1, batch_size=6))
    (found,) = predict(sampler, {0: params}, np.asarray(examples["image"]))
    np.testing.assert_allclose(found, scipy.special.softmax(logits, axis=1), rtol=1e-4)
    right = np.mean(logits.argmax(1) == np.asarray(examples["label"]))
    assert float(metrics["accuracy"]) == pytest.approx(right)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"bridge": "straight"},
            "classification.bridge is 'straight'; allowed: 'soft' or 'soft_normalised' or 'hard'",
        ),
        (
            {"weight": "w"},
            "classification.weight is 'w'; allowed: 'none' or 'edm' or 'batch_scalar'",
        ),
        (
            {"image_dropout": 1.0},
            "classification.image_dropout is 1.0; allowed: a number in [0, 1)",
        ),
    ],
)
def test_refusals(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        ClassificationConfig(**settings)
    assert str(error.value) == sentence
