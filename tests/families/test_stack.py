"""A user's own modules as a network that can be cut."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dbjax.errors import SettingError
from dbjax.families.stack import ResidualStack
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.sampling import Sampler, SamplingConfig
from dbjax.task import DenoisingTask, Network
from tests.helpers import (
    WIDTH,
    Residual,
    ToyStream,
    distance,
    linear,
    same,
    toy_network,
    toy_trainer,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Plain(nnx.Module):
    """h -> h; the optional second argument is its own affair."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = linear(WIDTH, WIDTH, rngs)

    def __call__(self, h: jax.Array, scale: float = 1.0) -> jax.Array:
        return h + scale * self.linear(h)


class Gated(nnx.Module):
    """(h, c) -> h, with other parameters than `Residual`."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.gate = linear(WIDTH, WIDTH, rngs)

    def __call__(self, h: jax.Array, c: jax.Array) -> jax.Array:
        return h * (1 + self.gate(c))


class Convolution(nnx.Module):
    """Images: c has to be brought to the image's shape by the layer itself."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.GroupNorm(WIDTH, num_groups=2, rngs=rngs)
        self.conv = nnx.Conv(WIDTH, WIDTH, (3, 3), rngs=rngs)

    def __call__(self, h: jax.Array, c: jax.Array) -> jax.Array:
        return h + self.conv(jax.nn.silu(self.norm(h) + c[:, None, None, :]))


def stack(*layers: Any, rngs: nnx.Rngs | None = None, **settings: Any) -> ResidualStack:
    rngs = rngs or nnx.Rngs(0)
    parts = {
        "embed": linear(2, WIDTH, rngs),
        "head": linear(WIDTH, 2, rngs),
        "sample_shape": (2,),
    }
    return ResidualStack(list(layers), **{**parts, **settings})


def test_keeps_the_protocol() -> None:
    network = toy_network(3)
    assert isinstance(network, Network)
    assert network.depth == 3


def test_computes_what_the_modules_compute(key: jax.Array) -> None:
    """head(layers(embed(z) + c)), with c from a layer that keeps it."""
    kept = []

    class Keeping(nnx.Module):
        def __call__(self, h: jax.Array, c: jax.Array) -> jax.Array:
            kept.append(c)
            return h

    rngs = nnx.Rngs(0)
    layers = [Residual(rngs), Plain(rngs), Gated(rngs)]
    embed, head = linear(2, WIDTH, rngs), linear(WIDTH, 2, rngs)
    network = stack(Keeping(), *layers, embed=embed, head=head)
    z, c_noise = jax.random.normal(key, (4, 2)), jnp.array([-1.5, -0.5, 0.0, 1.0])
    out = network.apply(network.init(key, range(4)), z, c_noise)
    c = kept[-1]
    assert distance(c[0], c[1]) > 0
    h = embed(z) + c
    for layer in layers:
        h = layer(h) if isinstance(layer, Plain) else layer(h, c)
    np.testing.assert_allclose(out, head(h), rtol=1e-5, atol=1e-6)


def test_reads_noise_and_label(key: jax.Array) -> None:
    network = toy_network(1, num_classes=3)
    params = network.init(key, [0])
    z = jnp.ones((4, 2))
    noise = jnp.zeros(4)
    by_label = network.apply(params, z, noise, jnp.arange(4))
    assert len({tuple(row) for row in np.asarray(by_label).tolist()}) == 4
    # No label is the last row of the table.
    np.testing.assert_array_equal(network.apply(params, z, noise)[0], by_label[3])
    assert not jnp.any(network.apply(params, z, noise + 0.5, jnp.arange(4)) == by_label)


def test_a_cut_network_is_the_network(key: jax.Array) -> None:
    """Layers by index, consecutive or not; blocks share no arrays."""
    rngs = nnx.Rngs(0)
    network = stack(Residual(rngs), Plain(rngs), Gated(rngs))
    whole = network.init(key, range(3))
    for i in range(3):
        (layer,) = network.init(key, [i])["layers"]
        assert same(layer, whole["layers"][i])
    assert same(network.init(key, [0])["interface"], whole["interface"])


def test_mixed_modules_train_and_sample(key: jax.Array) -> None:
    layers = (1, 2)
    rngs = nnx.Rngs(0)
    network = stack(Residual(rngs), Plain(rngs), Gated(rngs))
    noise = LogNormalNoise()
    partition = make_partition(PartitionConfig(2, layers=layers), noise, 3)
    task = DenoisingTask(network, noise, partition, (2,))
    trainer = toy_trainer(task)
    blocks = {}
    for b in range(2):
        before = trainer.init(b)
        state, metrics = jax.jit(trainer.run)(before, ToyStream(b).take(2), b, trainer.interval(b))
        assert jnp.all(jnp.isfinite(metrics["loss"]))
        for old, new in zip(before.params["layers"], state.params["layers"], strict=True):
            assert distance(old, new) > 0
        blocks[b] = state.weights
    samples = Sampler(task, SamplingConfig(num_steps=3))(blocks, key, 2).clean
    assert jnp.all(jnp.isfinite(samples))


def test_images(key: jax.Array) -> None:
    rngs = nnx.Rngs(0)
    network = ResidualStack(
        [Convolution(rngs), Convolution(rngs)],
        embed=nnx.Conv(1, WIDTH, (3, 3), rngs=rngs),
        head=nnx.Conv(WIDTH, 1, (3, 3), rngs=rngs),
        sample_shape=(4, 4, 1),
    )
    params = network.init(key, range(2))
    out = jax.eval_shape(network.apply, params, jnp.ones((3, 4, 4, 1)), jnp.zeros(3))
    assert out.shape == (3, 4, 4, 1)


def test_the_users_modules_are_left_alone() -> None:
    """Training starts from their weights and, though it consumes its arrays, not from theirs."""
    rngs = nnx.Rngs(0)
    layer = Residual(rngs)
    original = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(layer)))
    noise = LogNormalNoise()
    partition = make_partition(PartitionConfig(1), noise, 1)
    trainer = toy_trainer(DenoisingTask(stack(layer), noise, partition, (2,)))
    before = trainer.init(0)
    assert same(before.params["layers"][0].params, original)
    run = jax.jit(trainer.run, donate_argnums=0)
    after, _ = run(before, ToyStream(0).take(2), 0, trainer.interval(0))
    assert distance(after.params["layers"][0].params, original) > 0
    assert same(nnx.to_pure_dict(nnx.state(layer)), original)
    # A second run finds the same start.
    assert same(trainer.init(0).params["layers"][0].params, original)


def test_equal_modules_make_equal_blocks(key: jax.Array) -> None:
    """One structure, so that one compiled program serves all blocks."""
    rngs = nnx.Rngs(0)
    network = stack(Residual(rngs), Residual(rngs), Gated(rngs))
    first, second, third = (jax.tree.structure(network.init(key, [i])) for i in range(3))
    assert first == second != third


def test_bfloat16_stays_what_the_layers_were_checked_with(key: jax.Array) -> None:
    seen = []

    class Layer(Plain):
        def __call__(self, h: jax.Array, scale: float = 1.0) -> jax.Array:
            seen.append(h.dtype)
            return h

    rngs = nnx.Rngs(0)
    network = stack(Layer(rngs), embed=linear(2, WIDTH, rngs, dtype=jnp.bfloat16))
    network.apply(network.init(key, [0]), jnp.ones((3, 2)), jnp.zeros(3))
    assert set(seen) == {jnp.dtype("bfloat16")}


class Widening(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.linear = linear(WIDTH, 16, rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        return self.linear(h)


class Halving(nnx.Module):
    def __call__(self, h: jax.Array) -> jax.Array:
        return h.astype(jnp.float16)


class Normalised(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        return h + self.norm(h)


class Dropping(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, h: jax.Array) -> jax.Array:
        return h + self.dropout(h)


class Complaining(nnx.Module):
    def __call__(self, h: jax.Array) -> jax.Array:
        raise AssertionError


class Splitting(nnx.Module):
    def __call__(self, h: jax.Array) -> Any:
        return h, h


RNGS = nnx.Rngs(0)
ONLY_PARAMETERS = (
    "allowed: parameters only (LayerNorm or GroupNorm instead of BatchNorm, no Dropout)"
)


@pytest.mark.parametrize(
    ("layers", "settings", "sentence"),
    [
        ([], {}, "layers is []; allowed: at least one module"),
        (
            [Plain(RNGS), Widening(RNGS)],
            {},
            "layers[1] (Widening) turns float32[batch, 8] into float32[batch, 16]; a stack can be "
            "cut into blocks only if every layer keeps the shape and type of its input",
        ),
        (
            [Halving()],
            {},
            "layers[0] (Halving) turns float32[batch, 8] into float16[batch, 8]; a stack can be "
            "cut into blocks only if every layer keeps the shape and type of its input",
        ),
        (
            [Normalised(RNGS)],
            {},
            f"layers[0] (Normalised) keeps state of kind BatchStat; {ONLY_PARAMETERS}",
        ),
        (
            [Plain(RNGS), Dropping(RNGS)],
            {},
            f"layers[1] (Dropping) keeps state of kind RngCount, RngKey; {ONLY_PARAMETERS}",
        ),
        (
            [Plain(RNGS)],
            {"head": nnx.BatchNorm(WIDTH, rngs=RNGS)},
            f"head keeps state of kind BatchStat; {ONLY_PARAMETERS}",
        ),
        (
            [Plain(RNGS)],
            {"head": linear(WIDTH, 3, RNGS)},
            "head returns float32[batch, 3]; allowed: float32[batch, 2], the shape of a sample",
        ),
        (
            [Splitting()],
            {},
            "the output of layers[0] (Splitting) is 'tuple'; allowed: one array",
        ),
        (
            [Complaining()],
            {},
            "layers[0] (Complaining) does not take float32[batch, 8]: AssertionError",
        ),
    ],
)
def test_refusals(layers: list[Any], settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError) as error:
        stack(*layers, **settings)
    assert str(error.value) == sentence


def test_refuses_an_input_that_does_not_fit() -> None:
    """The reason is the layer's own, so only the beginning is ours."""
    with pytest.raises(SettingError, match=r"^embed does not take float32\[batch, 5\]: \S"):
        stack(Plain(RNGS), sample_shape=(5,))
    with pytest.raises(
        SettingError, match=r"^layers\[0\] \(Linear\) does not take float32\[batch, 8\]: \S"
    ):
        stack(linear(9, 9, RNGS))
