"""Forward-Forward and its contrastive kin: losses, locality, answers, memory, refusals."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.baselines.contrastive import (
    ContrastiveForwardForwardTask,
    ContrastiveViT,
    contrastive_loss,
)
from dbjax.baselines.forward_forward import (
    ForwardForwardConfig,
    ForwardForwardTask,
    ForwardForwardViT,
    label_codes,
    scaled,
)
from dbjax.baselines.local import gradient_at_once
from dbjax.build import build, default_config
from dbjax.classification import Classifier
from dbjax.errors import SettingError
from dbjax.families.vit import ViTConfig
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.task import Task
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("quick_compilation")

CLASSES, SHAPE, DEPTH = 3, (4, 4, 1), 3
NOISE = LogNormalNoise()
CODES = label_codes(jax.random.key(1), CLASSES, 2, 1, 1.5)
INTERVAL = jnp.array([0.0, 1.0])


def model(**settings: Any) -> ViTConfig:
    small = {"patch_size": 2, "depth": DEPTH, "width": 8, "num_heads": 2, "mlp_hidden": 8}
    return ViTConfig(**{**small, "dropout": 0.0, **settings})


def network(contrastive: bool = False, depth: int = DEPTH, **settings: Any) -> Any:
    config = ForwardForwardConfig(**settings)
    if contrastive:
        return ContrastiveViT(model(depth=depth), SHAPE, CLASSES, config)
    return ForwardForwardViT(model(depth=depth), SHAPE, CODES, config)


def task(contrastive: bool = False, net: Any = None, **settings: Any) -> Any:
    net = net or network(contrastive, **settings)
    family = ContrastiveForwardForwardTask if contrastive else ForwardForwardTask
    partition = make_partition(PartitionConfig(1), NOISE, net.depth)
    return family(net, NOISE, partition, mean=8.0, std=4.0)


def parameters(task: Any, seed: int = 0) -> Any:
    """Parameters without zeros, since many start at zero and would hide bugs."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: task.init(key, 0), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)


def batch(contrastive: bool = False, size: int = 6) -> dict[str, jax.Array]:
    rng = np.random.default_rng(1)
    shape = (size, 2, *SHAPE) if contrastive else (size, *SHAPE)
    return {
        "image": jnp.asarray(rng.integers(0, 17, shape), jnp.uint8),
        "label": jnp.asarray(np.arange(size) % CLASSES, jnp.int32),
    }


@pytest.mark.parametrize("contrastive", [False, True])
def test_the_contracts_are_kept(contrastive):
    assert isinstance(task(contrastive), Task)
    assert isinstance(network(contrastive), Classifier)


# --- losses, restated in float64 ------------------------------------------------------------------


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def test_a_layers_loss_rewards_goodness_with_right_labels_only():
    tokens = np.random.default_rng(2).normal(0, 2, (8, 5, 16))
    g = (tokens[:, 1:].mean(1) ** 2).mean(1)
    right, wrong = g[:4], g[4:]
    expected = {
        "threshold": softplus(0.7 - right) + softplus(wrong - 0.7),
        "symba": softplus(-3 * (right - wrong)),
    }
    for loss, values in expected.items():
        net = network(loss=loss, threshold=0.7, alpha=3.0)
        found, (handed_on, metrics) = net.judge(jnp.asarray(tokens, jnp.float32), {}, 0)
        np.testing.assert_allclose(found, values.mean(), rtol=1e-5)
        length = np.sqrt((tokens**2).mean((1, 2), keepdims=True))
        np.testing.assert_allclose(handed_on, tokens / length, rtol=1e-5)
        assert float(metrics["right_above_threshold"]) == (right > 0.7).mean()
        assert float(metrics["wrong_above_threshold"]) == (wrong > 0.7).mean()
        assert float(metrics["right_above_wrong"]) == (right > wrong).mean()


@pytest.mark.parametrize("margin", [0.0, 0.4])
def test_the_contrastive_loss_with_a_margin(margin):
    rng = np.random.default_rng(3)
    label = np.array([0, 1, 0, 2, 1, 2, 0, 1])
    features = rng.normal(size=(8, 4)) + 2 * np.eye(4)[label]  # near their class: margins are cut
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    losses, cut = [], 0
    for i in range(8):
        others = [j for j in range(8) if j != i]
        kin = [j for j in others if label[j] == label[i]]
        cosines = {j: unit[i] @ unit[j] for j in others}
        cut += sum(cosines[j] + margin > 1 for j in kin)
        eased = {j: min(cosines[j] + margin, 1) if j in kin else cosines[j] for j in others}
        total = sum(np.exp(eased[j] / 0.15) for j in others)
        losses.append(-np.mean([eased[j] / 0.15 - np.log(total) for j in kin]))
    found = contrastive_loss(
        jnp.asarray(features, jnp.float32), jnp.asarray(label), margin=margin, temperature=0.15
    )
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)
    assert (cut > 0) == (margin > 0)


def test_margins_are_linear_in_depth():
    tokens = jnp.asarray(np.random.default_rng(4).normal(size=(6, 4, 8)), jnp.float32)
    label = jnp.arange(6) % CLASSES
    net = network(True, first_margin=0.4, last_margin=0.1)
    for position, margin in enumerate((0.4, 0.25, 0.1)):
        found, (handed_on, _) = net.judge(tokens, {"label": label}, position)
        expected = contrastive_loss(tokens.mean(1), label, margin=margin, temperature=0.15)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_array_equal(handed_on, tokens)


# --- what is trained on ---------------------------------------------------------------------------


def shown(task: Any, examples: Any, key: jax.Array, monkeypatch: Any) -> Any:
    """What the network is trained on."""
    seen = {}

    def train(params: Any, examples: Any, key: Any) -> Any:
        seen.update(examples)
        return jnp.zeros(()), jnp.ones((len(examples["image"]), 4, 8)), {}

    monkeypatch.setattr(task.network, "train", train)
    task.loss(parameters(task), examples, INTERVAL, key)
    return seen


def test_wrong_labels_are_drawn_evenly_from_all_others(key, monkeypatch):
    examples = batch(size=600)
    seen = shown(task(), examples, key, monkeypatch)
    normal = (np.asarray(examples["image"], "f4") - 8) / 4
    np.testing.assert_array_equal(seen["image"], np.concatenate([normal, normal]))
    right, wrong = np.split(np.asarray(seen["label"]), 2)
    np.testing.assert_array_equal(right, examples["label"])
    counts = np.bincount((wrong - right) % CLASSES, minlength=CLASSES)
    assert counts[0] == 0 and counts[1:].min() > 250


def test_both_views_have_their_images_label(key, monkeypatch):
    examples = batch(contrastive=True)
    seen = shown(task(contrastive=True), examples, key, monkeypatch)
    for i in range(6):
        for view in range(2):
            normal = (np.asarray(examples["image"][i, view], "f4") - 8) / 4
            np.testing.assert_array_equal(seen["image"][2 * i + view], normal)
            assert seen["label"][2 * i + view] == examples["label"][i]


# --- locality -------------------------------------------------------------------------------------


def test_a_gradient_taken_at_once_is_the_gradient():
    def loss(params: Any, x: jax.Array) -> Any:
        y = jnp.tanh(params["w"] * x)
        return jnp.sum(y**2), y

    local = gradient_at_once(loss)
    params, x = {"w": jnp.array([0.3, -2.0])}, jnp.array([1.5, 0.2])
    assert relative_distance(local(params, x), loss(params, x)) == 0
    expected = jax.grad(lambda p: 3 * loss(p, x)[0])(params)
    found, to_input = jax.grad(lambda p, x: 3 * local(p, x)[0], argnums=(0, 1))(params, x)
    assert relative_distance(found, expected) < 1e-6
    assert not to_input.any()
    assert not jax.grad(lambda p: local(p, x)[1].sum())(params)["w"].any()


def louder(net: Any, monkeypatch: Any) -> None:
    """Multiplies the loss of each layer by its entry in examples["times"]."""
    judge = net.judge

    def judge_times(tokens: Any, examples: Any, position: Any) -> Any:
        loss, rest = judge(tokens, examples, position)
        return loss * examples["times"][position], rest

    monkeypatch.setattr(net, "judge", judge_times)


def plain_loss(net: Any, params: Any, examples: Any) -> jax.Array:
    """Sum of the layers' losses with gradients stopped between them, and nothing more to it."""
    tokens = net.embed(net.interface(params), examples, None)
    total = jnp.zeros(())
    for i in range(net.depth):
        layer = jax.tree.map(lambda x, i=i: x[i], params["layers"])
        loss, (tokens, _) = net.judge(net.layer(layer, tokens, None), examples, i)
        total, tokens = total + loss, jax.lax.stop_gradient(tokens)
    return total


@pytest.mark.parametrize("contrastive", [False, True])
def test_each_layer_has_the_gradient_of_its_own_loss_alone(contrastive, monkeypatch):
    it = task(contrastive)
    params, rng = parameters(it), np.random.default_rng(5)
    examples = {
        "image": jnp.asarray(rng.normal(size=(8, *SHAPE)), jnp.float32),
        "label": jnp.array([0, 1, 2, 0, 1, 2, 0, 1]),
        "times": jnp.ones(DEPTH),
    }
    louder(it.network, monkeypatch)
    train = lambda p, x: it.network.train(p, x, None)[0]  # noqa: E731
    gradient = jax.jit(jax.value_and_grad(train))
    found = gradient(params, examples)
    plain = jax.jit(jax.value_and_grad(functools.partial(plain_loss, it.network)))
    assert relative_distance(found, plain(params, examples)) < 1e-4
    assert all(leaf.any() for leaf in jax.tree.leaves(found[1]["layers"]))
    assert found[1]["interface"]["patches"]["kernel"].any()
    # The second layer's loss seven times, and nothing but the second layer's gradient changes.
    times = np.array([1.0, 7.0, 1.0])
    _, after = gradient(params, {**examples, "times": jnp.asarray(times, jnp.float32)})
    assert relative_distance(after["interface"], found[1]["interface"]) < 1e-6
    expected = jax.tree.map(
        lambda x: x * times.reshape(-1, *[1] * (x.ndim - 1)),
        jax.tree.map(np.asarray, found[1]["layers"]),
    )
    assert relative_distance(after["layers"], expected) < 1e-5


def test_memory_does_not_grow_with_depth_beyond_parameters(key):
    """Compiled for a batch whose intermediate results outweigh the parameters by far."""
    examples = batch(size=128)

    def bytes_at(depth: int) -> tuple[int, int]:
        it = task(net=network(depth=depth))
        params = jax.eval_shape(lambda: it.init(key, 0))
        step = jax.grad(lambda p: it.loss(p, examples, INTERVAL, key)[0])
        analysis: Any = jax.jit(step).lower(params).compile().memory_analysis()
        return analysis.temp_size_in_bytes, analysis.output_size_in_bytes

    # From three layers on there is a loop.
    (shallow, few), (deep, many) = bytes_at(3), bytes_at(12)
    assert shallow > 10 * many
    assert deep - shallow < 3 * (many - few)
    assert deep < 1.1 * shallow


# --- answers --------------------------------------------------------------------------------------


def test_the_answer_is_the_label_with_the_highest_goodness_over_later_layers():
    it = task(counted_from=2)
    params, examples = parameters(it), batch()
    estimate = it.denoise(params, jnp.zeros((6, 1)), jnp.ones(6), examples["image"])
    image = (jnp.asarray(examples["image"], jnp.float32) - 8) / 4
    interface = it.network.interface(params)
    for label in range(CLASSES):
        inputs = {"image": image, "label": jnp.full(6, label)}
        tokens = it.network.embed(interface, inputs, None)
        total = np.zeros(6)
        for i in range(DEPTH):
            layer = jax.tree.map(lambda x, i=i: x[i], params["layers"])
            tokens = it.network.layer(layer, tokens, None)
            if i >= 1:
                total += (np.asarray(tokens)[:, 1:].mean(1) ** 2).mean(1)
            tokens = scaled(tokens)
        np.testing.assert_allclose(estimate.logits[:, label], total, rtol=1e-4)
    assert np.ptp(np.asarray(estimate.logits), axis=1).min() > 1e-4


def test_the_label_is_the_first_token_and_is_embedded_as_patches_are():
    it = task()
    params = parameters(it)
    inputs = {"image": jnp.ones((2, *SHAPE)), "label": jnp.array([2, 0])}
    tokens = it.network.embed(it.network.interface(params), inputs, None)
    patches, positions = (params["interface"][name] for name in ("patches", "positions"))
    expected = np.asarray(CODES)[[2, 0]] @ np.asarray(patches["kernel"])
    expected = expected + np.asarray(patches["bias"]) + np.asarray(positions)[0, 0]
    assert tokens.shape == (2, 5, 8)
    np.testing.assert_allclose(tokens[:, 0], expected, rtol=1e-5)


def test_the_head_answers_learns_and_teaches_no_layer(key):
    it = task(contrastive=True)
    params, examples = parameters(it), batch(contrastive=True)

    def entropy(params: Any) -> Any:
        _, metrics = it.loss(params, examples, INTERVAL, key)
        return metrics["cross_entropy"], metrics

    gradient, metrics = jax.jit(jax.grad(entropy, has_aux=True))(params)
    learns = ("classifier", "norm")
    for name, tree in gradient["interface"].items():
        assert all(bool(leaf.any()) == (name in learns) for leaf in jax.tree.leaves(tree))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["layers"]))

    image = examples["image"].reshape(-1, *SHAPE)
    logits = jax.jit(it.denoise)(params, jnp.zeros((12, 1)), jnp.ones(12), image).logits
    log_p = np.asarray(jax.nn.log_softmax(logits))
    label = np.repeat(examples["label"], 2)
    expected = -log_p[np.arange(12), label].mean()
    assert float(metrics["cross_entropy"]) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx((log_p.argmax(1) == label).mean())


# --- codes ----------------------------------------------------------------------------------------


def test_codes_light_a_fifth_of_a_patch_and_differ():
    codes = np.asarray(label_codes(jax.random.key(0), 100, 4, 3, 2.0))
    assert codes.shape == (100, 48)
    assert ((codes == 2.0).sum(1) == 10).all() and set(np.unique(codes)) == {0.0, 2.0}
    assert len({row.tobytes() for row in codes}) == 100
    np.testing.assert_array_equal(codes, label_codes(jax.random.key(0), 100, 4, 3, 2.0))
    assert (codes != label_codes(jax.random.key(5), 100, 4, 3, 2.0)).any()
    every_way = np.asarray(label_codes(jax.random.key(0), 4, 2, 1, 1.0))
    np.testing.assert_array_equal(np.sort(every_way.argmax(1)), np.arange(4))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "l2"}, "forward_forward.loss is 'l2'; allowed: 'threshold' or 'symba'"),
        ({"threshold": 0.0}, "forward_forward.threshold is 0.0; allowed: a number above 0"),
        ({"alpha": -1.0}, "forward_forward.alpha is -1.0; allowed: a number above 0"),
        ({"temperature": 0.0}, "forward_forward.temperature is 0.0; allowed: a number above 0"),
        ({"counted_from": 0}, "forward_forward.counted_from is 0; allowed: 1 or more"),
        ({"counted_from": 4}, "forward_forward.counted_from is 4; allowed: 1 to 3, the number of "),
        ({"first_margin": -0.1}, "forward_forward.first_margin is -0.1; allowed: a number in [0, "),
        ({"last_margin": 2.0}, "forward_forward.last_margin is 2.0; allowed: a number in [0, 2)"),
    ],
)
def test_refusals(settings, sentence):
    with pytest.raises(SettingError) as error:
        network(**settings)
    assert str(error.value).startswith(sentence)


def test_patches_too_small_for_codes_are_refused():
    with pytest.raises(SettingError) as error:
        label_codes(jax.random.key(0), 10, 2, 1, 1.0)
    assert str(error.value) == (
        "model.patch_size is 2; allowed: patches large enough for 10 different codes of labels "
        "(1 of 4 values can be chosen in 4 ways)"
    )


@pytest.mark.parametrize(
    ("family", "settings", "sentence"),
    [
        ("contrastive_forward_forward", {"data.views": 1}, "data.views is 1; allowed: 2 with fam"),
        ("forward_forward", {"data.views": 2}, "data.views is 2; allowed: 1 with family 'forward"),
        ("plain_vit", {"data.views": 2}, "data.views is 2; allowed: 1 with family 'plain_vit'"),
        ("forward_forward", {"partition.num_blocks": 3}, "partition.num_blocks is 3; allowed: 1 w"),
        (
            "contrastive_forward_forward",
            {"partition.num_blocks": 3, "data.views": 2},
            "partition.num_blocks is 3; allowed: 1 with family 'contrastive_forward_forward'",
        ),
    ],
)
def test_the_build_refuses(family, settings, sentence):
    config = default_config(family)
    config.model.update(depth=3, width=8, num_heads=2, mlp_hidden=8)
    config.partition.num_blocks = 1
    config.update_from_flattened_dict(settings)
    with pytest.raises(SettingError) as error:
        build(config)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize("family", ["forward_forward", "contrastive_forward_forward"])
def test_a_config_makes_a_task_whose_codes_follow_the_seed(family):
    config = default_config(family)
    config.model.update(depth=3, width=8, num_heads=2, mlp_hidden=8)
    config.partition.num_blocks = 1
    config.data.views = 1 if family == "forward_forward" else 2
    one, same = (build(config).task for _ in range(2))
    config.seed = 1
    other = build(config).task
    if family == "forward_forward":
        np.testing.assert_array_equal(one.network.codes, same.network.codes)
        assert (one.network.codes != other.network.codes).any()
    params = jax.eval_shape(lambda: one.init(jax.random.key(0), 0))
    image = jnp.zeros((2, 8, 8, 1), jnp.uint8)
    estimate = jax.eval_shape(one.denoise, params, jnp.zeros((2, 1)), jnp.ones(2), image)
    assert estimate.logits.shape == (2, 10)
