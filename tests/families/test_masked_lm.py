"""The masked language model against NumPy, and its bound against known entropies."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from dbjax.errors import SettingError
from dbjax.families.masked_lm import MaskedLM, MaskedLMConfig, MaskedTask
from dbjax.metrics.likelihood import evidence_bound
from dbjax.noise import MASKED, MaskingNoise
from dbjax.partition import PartitionConfig, make_partition
from tests.helpers import shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCABULARY, LENGTH = 5, 7
SMALL = MaskedLMConfig(depth=4, width=12, num_heads=3, mlp_hidden=10, embed_width=6)


def task_of(network: Any, num_blocks: int = 2, **noise: Any) -> MaskedTask:
    masking = MaskingNoise(**noise)
    partition = make_partition(PartitionConfig(num_blocks, overlap=0.0), masking, network.depth)
    return MaskedTask(network, masking, partition, LENGTH)


def restated(params: Any, tokens: np.ndarray, time: np.ndarray) -> np.ndarray:
    """MD4's network, written down once more from the description of its code."""
    tree = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    outer, layers = tree["interface"], tree["layers"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def dense(x, of):
        return x @ of["kernel"] + of.get("bias", 0)

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def turned(x):
        pairs = x[..., ::2] + 1j * x[..., 1::2]
        half = pairs.shape[-1]
        angle = np.arange(x.shape[1])[:, None] / 10_000 ** (np.arange(half) / half)
        pairs = pairs * np.exp(1j * angle)[None, :, None]
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    narrow = outer["tokens"]["embedding"].shape[1]
    rate = 10_000 ** (-np.arange(narrow // 2) / (narrow // 2 - 1))
    angle = 1000 * time[:, None] * rate
    hidden = dense(np.concatenate([np.sin(angle), np.cos(angle)], -1), outer["expand_time"])
    condition = sigmoid(dense(hidden * sigmoid(hidden), outer["time"]))
    x = dense(outer["tokens"]["embedding"][tokens], outer["widen"])  # the last row: masked
    for i in range(len(layers["modulation"]["linear"]["kernel"])):
        layer = jax.tree.map(lambda a, i=i: a[i], layers)
        vectors = dense(condition, layer["modulation"]["linear"])[:, None]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(vectors, 6, -1)
        h = norm(x) * (1 + scale_a) + shift_a
        parts = np.split(dense(h, layer["attention"]["qkv"]), 3, -1)
        query, key, value = (p.reshape(*p.shape[:2], SMALL.num_heads, -1) for p in parts)
        scores = np.einsum("bqhd,bkhd->bhqk", turned(query), turned(key))
        scores = np.exp(scores / np.sqrt(query.shape[-1]))
        weights = scores / scores.sum(-1, keepdims=True)
        mixed = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(x.shape)
        x = x + gate_a * dense(mixed, layer["attention"]["out"])
        h = norm(x) * (1 + scale_m) + shift_m
        gate, up = np.split(dense(h, layer["mlp"]["expand"]), 2, -1)
        x = x + gate_m * dense(sigmoid(gate) * up, layer["mlp"]["contract"])
    shift, scale = np.split(dense(condition, outer["modulation"]["linear"])[:, None], 2, -1)
    return dense(norm(x) * (1 + scale) + shift, outer["out"])


def test_network_is_that_of_md4(key):
    network = MaskedLM(SMALL, VOCABULARY)
    params = shaken(jax.jit(network.init, static_argnums=1)(key, (0, 1, 2, 3)), key)
    tokens = np.random.default_rng(0).integers(-1, VOCABULARY, size=(3, LENGTH)).astype(np.int32)
    time = np.array([0.0, 0.3, 1.0], np.float32)
    found = network.apply(params, jnp.asarray(tokens), jnp.asarray(time))
    np.testing.assert_allclose(found, restated(params, tokens, time), rtol=1e-3, atol=1e-4)


def test_published_size():
    network = MaskedLM(MaskedLMConfig(), 27)
    shapes = jax.eval_shape(lambda key: network.init(key, range(12)), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 88_734_272


def test_a_fresh_model_knows_nothing(key):
    task = task_of(MaskedLM(SMALL, VOCABULARY))
    params = task.init(key, 0)
    batch = {"tokens": jax.random.randint(key, (64, LENGTH), 0, VOCABULARY)}
    loss, metrics = task.loss(params, batch, jnp.array([0.0, 0.5]), key)
    assert metrics["cross_entropy"] == pytest.approx(np.log(VOCABULARY), rel=1e-5)
    assert loss == pytest.approx(np.log(VOCABULARY), rel=0.1)


def test_only_masked_tokens_count_and_their_truth_is_hidden(key):
    """Where a token is shown, the loss does not depend on the answer; where masked, z does not."""
    task = task_of(MaskedLM(SMALL, VOCABULARY), num_blocks=1)
    params = shaken(jax.jit(task.init, static_argnums=1)(key, 0), key)
    tokens = jax.random.randint(key, (1, LENGTH), 0, VOCABULARY)
    density, _ = task.density(params, tokens, jnp.array([1.0]), key)
    masked = task.noise.corrupt(key, tokens, task.noise.level(jnp.array([1.0]))) == MASKED
    assert not masked.any()
    assert density[0] == 0
    half = jnp.array([0.5])
    z = task.noise.corrupt(key, tokens, task.noise.level(half))
    position = int(jnp.argmax(z[0] == MASKED))
    other = tokens.at[0, position].set((tokens[0, position] + 1) % VOCABULARY)
    np.testing.assert_array_equal(task.noise.corrupt(key, other, task.noise.level(half)), z)


@dataclasses.dataclass(frozen=True, eq=False)
class Deaf:
    """Gives every token the probabilities that are its parameters, whatever it is shown."""

    depth: int = 4

    def init(self, key: Array, layers: Any) -> dict[str, Any]:
        return {"interface": jnp.zeros(VOCABULARY), "layers": jnp.zeros((len(layers), 1))}

    def apply(self, params: Any, z: Array, c_noise: Array, condition: Any = None, **_: Any) -> Any:
        return jnp.broadcast_to(params["interface"], (*z.shape, VOCABULARY))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_without_looking_the_bound_is_the_unigram_entropy(schedule, num_blocks):
    """Also when the mass is shared by blocks, and whatever the schedule."""
    chances = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    tokens = np.random.default_rng(0).choice(VOCABULARY, p=chances, size=(40_000, LENGTH))
    counted = np.bincount(tokens.reshape(-1), minlength=VOCABULARY) / tokens.size
    task = task_of(Deaf(), num_blocks, schedule=schedule)
    blocks = {
        b: {**task.init(jax.random.key(0), b), "interface": jnp.log(jnp.asarray(counted))}
        for b in range(num_blocks)
    }
    found = evidence_bound(task, blocks, tokens.astype(np.int32), VOCABULARY, batch_size=4_000)
    entropy = -np.sum(counted * np.log(counted))
    assert found["nats_per_token"] == pytest.approx(entropy, rel=0.01)
    assert sum(row["nats_per_token"] for row in found["by_block"]) == pytest.approx(
        found["nats_per_token"], abs=1e-3
    )
    assert sum(row["share"] for row in found["by_block"]) == pytest.approx(1)
    wrong = {b: {**p, "interface": jnp.zeros(VOCABULARY)} for b, p in blocks.items()}
    again = evidence_bound(
        task, blocks, tokens[:1000].astype(np.int32), VOCABULARY, looks=40, batch_size=700
    )
    counted = np.bincount(tokens[:1000].reshape(-1), minlength=VOCABULARY) / (1000 * LENGTH)
    cross = -np.sum(counted * np.asarray(blocks[0]["interface"]))
    assert again["nats_per_token"] == pytest.approx(cross, rel=0.02)
    worse = evidence_bound(task, wrong, tokens.astype(np.int32), VOCABULARY, batch_size=4_000)
    assert worse["nats_per_token"] == pytest.approx(np.log(VOCABULARY), rel=0.01)


def test_dropout_acts_in_training_only(key):
    network = MaskedLM(dataclasses.replace(SMALL, dropout=0.5), VOCABULARY)
    params = shaken(jax.jit(network.init, static_argnums=1)(key, (0, 1, 2, 3)), key)
    tokens = jnp.zeros((2, LENGTH), jnp.int32)
    time = jnp.array([0.2, 0.7])
    still = network.apply(params, tokens, time)
    np.testing.assert_array_equal(still, network.apply(params, tokens, time))
    assert not np.allclose(still, network.apply(params, tokens, time, key=key))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_heads": 5}, "model.num_heads is 5; allowed: a number that divides the width 768"),
        ({"embed_width": 5}, "model.embed_width is 5; allowed: even, at least 4"),
        ({"activation": "gelu"}, "model.activation is 'gelu'; allowed: 'sigmoid' or 'silu'"),
        ({"dropout": 1.0}, r"model.dropout is 1.0; allowed: a number in \[0, 1\)"),
        ({"depth": 0}, "model.depth is 0; allowed: a positive integer"),
        ({"dtype": "float16"}, "model.dtype is 'float16'; allowed: float32, bfloat16"),
    ],
)
def test_refusals(settings, sentence):
    with pytest.raises(SettingError, match=sentence):
        MaskedLMConfig(**settings)
