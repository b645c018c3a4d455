"""Autoregressive tasks, and writing with caches against writing without them."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.autoregressive import (
    AutoregressiveConfig,
    AutoregressiveTask,
    FixedTable,
    NextTokenTask,
    RecurrentTask,
    SequenceConfig,
)
from dbjax.categorical import draw, nucleus
from dbjax.errors import SettingError
from dbjax.families.ar_lm import ARConfig, ARDenoiser, PlainAR, PlainARConfig
from dbjax.families.huginn import Huginn, HuginnConfig
from dbjax.families.recurrent_lm import DenoiserConfig, RecurrentDenoiser
from dbjax.generation import GIVEN_NOT, GenerationConfig, Generator
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.writers import slot_noise
from tests.helpers import shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCABULARY, LENGTH = 7, 9
SHAPE: dict[str, Any] = {"depth": 2, "width": 8, "num_heads": 2, "mlp_hidden": 12}
NOISE = LogNormalNoise(p_mean=0.5, p_std=1.0, sigma_min=0.2, sigma_max=20.0)


def task_of(
    num_blocks: int = 2,
    *,
    trained: bool = False,
    context: str = "own",
    start: str = "noise",
    **settings: Any,
) -> AutoregressiveTask:
    model = ARConfig(**SHAPE, condition_width=6, gates=1, start=start)
    network = ARDenoiser(model, VOCABULARY, trained_targets=trained)
    partition = make_partition(PartitionConfig(num_blocks, context=context), NOISE, network.depth)
    table = None if trained else FixedTable(jax.random.key(5), network.width)
    config = AutoregressiveConfig(**settings)
    return AutoregressiveTask(network, NOISE, partition, config, LENGTH, table)


def plain_task() -> NextTokenTask:
    network = PlainAR(PlainARConfig(**SHAPE), VOCABULARY)
    partition = make_partition(PartitionConfig(1), NOISE, network.depth)
    return NextTokenTask(network, NOISE, partition, LENGTH)


PARTS: dict[str, Any] = {
    "prelude": 1, "core": 2, "coda": 1, "width": 8, "num_heads": 2, "mlp_hidden": 12,
}  # fmt: skip


def recurrent_task(**settings: Any) -> RecurrentTask:
    network = RecurrentDenoiser(
        DenoiserConfig(**PARTS, condition_width=6), VOCABULARY, trained_targets=False
    )
    partition = make_partition(PartitionConfig(1), NOISE, network.depth)
    table = FixedTable(jax.random.key(5), network.width)
    return RecurrentTask(network, NOISE, partition, SequenceConfig(**settings), LENGTH, table)


def huginn_task() -> NextTokenTask:
    network = Huginn(HuginnConfig(**PARTS, mean_recurrence=3, backprop_depth=2), VOCABULARY)
    partition = make_partition(PartitionConfig(1), NOISE, network.depth)
    return NextTokenTask(network, NOISE, partition, LENGTH)


def blocks_of(task: Any, key: jax.Array) -> dict[int, Any]:
    return {
        b: shaken(jax.jit(task.init, static_argnums=1)(key, b), jax.random.fold_in(key, b))
        for b in range(task.partition.num_blocks)
    }


def written_without_caches(
    task: AutoregressiveTask, blocks: Any, config: GenerationConfig, known: np.ndarray, key: Any
) -> np.ndarray:
    """Each token by a walk in which every step reads the whole text again."""
    grid = Generator(task, config).grid
    answer = jax.jit(lambda *arguments: task.answer(*arguments)[0])
    text = np.where(known == GIVEN_NOT, 0, known)
    for i in np.flatnonzero((known == GIVEN_NOT).any(axis=0)):
        walk_key, token_key = jax.random.split(jax.random.fold_in(key, int(i)))
        keys = jax.random.split(walk_key, 1 + 2 * len(grid.levels))
        z = before = task.noise.prior(keys[0], (len(text), task.network.width))
        for k, (level, block) in enumerate(zip(grid.levels, grid.blocks, strict=True)):
            every = others(task, text, level, key).at[:, i].set(z)
            sigma = jnp.full((1, 1), level)
            logits = answer(blocks[block], every, sigma, jnp.asarray(text))[:, i]
            clean = task.bridge(
                blocks[block], logits, keys[2 * k + 1], temperature=config.temperature,
                top_p=config.top_p,
            )  # fmt: skip
            keep, led = (*grid.levels, 0.0)[k + 1] / level, clean
            if config.solver == "dpmpp_2m" and keep > 0 and k > 0:
                lengths = -np.log([keep, level / grid.levels[k - 1]])
                led = clean + (clean - before) * lengths[0] / lengths[1] / 2
            z, before = keep * z + (1 - keep) * led, clean
        found = draw(token_key, nucleus(logits, config.top_p), config.temperature)
        text[:, i] = np.where(known[:, i] == GIVEN_NOT, found, known[:, i])
    return text


def others(task: AutoregressiveTask, text: np.ndarray, level: float, key: jax.Array) -> jax.Array:
    """z of all slots of a text while one of them is sought."""
    shape = (len(text), task.network.width)
    if not isinstance(task, RecurrentTask):
        return jnp.zeros((*text.shape, shape[1]))
    noise = [slot_noise(key, jnp.int32(i), shape) for i in range(text.shape[1])]
    return task.targets({}).rows(jnp.asarray(text)) + level * jnp.stack(noise, axis=1)


@pytest.mark.parametrize(
    ("prompt_length", "settings", "sampling"),
    [
        (0, {}, {"num_steps": 2}),
        (
            3,
            {"bridge": "draw", "readout": "posterior"},
            {"num_steps": 3, "temperature": 0.8, "top_p": 0.9},
        ),
        (
            2,
            {"bridge": "soft", "readout": "tied", "readout_scale": 1.0},
            {"num_steps": 4, "temperature": 1.0, "solver": "dpmpp_2m"},
        ),
        (3, {"context": "cleaner", "start": "text"}, {"num_steps": 3, "temperature": 1.0}),
    ],
)
def test_writing_with_caches_gives_the_same_tokens(key, prompt_length, settings, sampling):
    task = task_of(**settings)
    blocks = blocks_of(task, key)
    config = GenerationConfig(**sampling)
    prompt = np.random.default_rng(0).integers(VOCABULARY, size=(5, prompt_length), dtype=np.int32)
    found = Generator(task, config)(blocks, prompt, LENGTH - prompt_length, seed=key)
    known = np.full((5, LENGTH), GIVEN_NOT, np.int32)
    known[:, :prompt_length] = prompt
    np.testing.assert_array_equal(found, written_without_caches(task, blocks, config, known, key))
    if config.temperature:
        assert len(np.unique(found)) > 2


def test_prompts_may_differ_in_length(key):
    task = task_of()
    blocks = blocks_of(task, key)
    config = GenerationConfig(temperature=1.0)
    prompt = np.array([[1, 2, 3, 4], [5, GIVEN_NOT, GIVEN_NOT, 6]], np.int32)
    found = Generator(task, config)(blocks, prompt, 3, seed=key)
    known = np.concatenate([prompt, np.full((2, 3), GIVEN_NOT, np.int32)], axis=1)
    np.testing.assert_array_equal(found, written_without_caches(task, blocks, config, known, key))
    np.testing.assert_array_equal(found[:, :4][prompt != GIVEN_NOT], prompt[prompt != GIVEN_NOT])


@pytest.mark.parametrize(("prompt_length", "bridge"), [(0, "hard"), (3, "draw")])
def test_a_recurrent_model_writes_the_same_with_caches(key, prompt_length, bridge):
    """Slots before the one that is sought have the noise of the level at hand, as in training."""
    task = recurrent_task(bridge=bridge)
    blocks = blocks_of(task, key)
    config = GenerationConfig(num_steps=3, temperature=1.0)
    known = np.full((5, LENGTH), GIVEN_NOT, np.int32)
    rng = np.random.default_rng(0)
    known[:, :prompt_length] = rng.integers(VOCABULARY, size=(5, prompt_length))
    generator = Generator(task, config)
    new = LENGTH - prompt_length
    found = generator(blocks, known[:, :prompt_length], new, seed=key)
    np.testing.assert_array_equal(found, written_without_caches(task, blocks, config, known, key))
    assert len(np.unique(found[:, prompt_length:])) > 2
    # A layer of prelude; 3 of core and coda at each of 3 levels, for two slots.
    assert generator.layer_evaluations == 1 + 2 * 3 * 3


def test_a_stream_is_the_text_as_it_grows(key):
    for task in (task_of(), plain_task()):
        blocks = blocks_of(task, key)
        generator = Generator(task, GenerationConfig(temperature=1.0))
        prompt = np.array([[1, 2]], np.int32)
        parts = list(generator.stream(blocks, prompt, 5, seed=key, every=2))
        assert [part.shape[1] for part in parts] == [4, 6, 7]
        for earlier, later in itertools.pairwise(parts):
            np.testing.assert_array_equal(later[:, : earlier.shape[1]], earlier)
        np.testing.assert_array_equal(generator(blocks, prompt, 5, seed=key), parts[-1])


@pytest.mark.parametrize("make", [plain_task, huginn_task])
def test_the_twins_write_what_is_likeliest(key, make):
    task = make()
    blocks = blocks_of(task, key)
    found = Generator(task, GenerationConfig())(blocks, np.zeros((2, 0), np.int32), 6, seed=key)
    logits = task.network.apply(blocks[0], jnp.asarray(found))
    np.testing.assert_array_equal(found, jnp.argmax(logits, axis=-1))


def test_the_plain_model_draws_as_often_as_it_says(key):
    task = plain_task()
    blocks = blocks_of(task, key)
    nothing = np.zeros((20_000, 0), np.int32)
    found = Generator(task, GenerationConfig(temperature=1.0))(blocks, nothing, 1, seed=key)
    logits = task.network.apply(blocks[0], jnp.zeros((1, 1), jnp.int32))[0, 0]
    shares = np.bincount(found[:, 0], minlength=VOCABULARY) / len(found)
    np.testing.assert_allclose(shares, jax.nn.softmax(logits), atol=0.015)


@pytest.mark.parametrize("sigma", ["sequence", "token"])
def test_levels_of_training(key, sigma):
    """Each token's own level, or one for the whole text; always within the interval."""
    task = task_of(sigma=sigma)
    params = blocks_of(task, key)[0]
    tokens = jax.random.randint(key, (3, LENGTH), 0, VOCABULARY)
    loss, metrics = task.loss(params, {"tokens": tokens}, jnp.array([0.2, 0.2]), key)
    assert loss == metrics["cross_entropy"]
    at_level = task.entropy(params, tokens, jnp.full(3, 0.2), jax.random.split(key, 3)[1])
    assert loss == pytest.approx(float(at_level.mean()), rel=1e-4)


def test_weights_and_the_share_of_next_tokens(key):
    tokens = {"tokens": jax.random.randint(key, (3, LENGTH), 0, VOCABULARY)}
    interval = jnp.array([0.4, 0.4])
    params = blocks_of(task_of(), key)[0]
    plain, _ = task_of().loss(params, tokens, interval, key)
    weighted, _ = task_of(weight="edm").loss(params, tokens, interval, key)
    weight = NOISE.weight(NOISE.level(jnp.float32(0.4)))
    assert weighted == pytest.approx(float(weight * plain), rel=1e-5)
    both, metrics = task_of(next_token_weight=0.5).loss(params, tokens, interval, key)
    assert both == pytest.approx(float(plain + 0.5 * metrics["next_token"]), rel=1e-5)
    clean = task_of().network.apply(
        params, jnp.zeros((3, LENGTH, 8)), jnp.zeros((3, 1)), tokens["tokens"],
        task_of().clean_level,
    ).clean  # fmt: skip
    logits = task_of().network.interface(params).read_out(clean)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens["tokens"][..., None], -1)
    assert metrics["next_token"] == pytest.approx(-float(chosen.mean()), rel=1e-5)


def test_targets_have_unit_norm_and_blocks_have_them_in_common(key):
    fixed, trained = task_of(), task_of(trained=True)
    tokens = jnp.arange(VOCABULARY)
    for task in (fixed, trained):
        rows = task.targets(task.init(key, 0)).rows(tokens)
        np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, rtol=1e-5)
        assert np.abs(np.asarray(rows @ rows.T) - np.eye(VOCABULARY)).max() < 0.99
    assert fixed.table is not None
    np.testing.assert_array_equal(
        fixed.table.rows(tokens.reshape(1, -1)[:, 2:4])[0], fixed.table.rows(tokens)[2:4]
    )
    assert "targets" not in fixed.init(key, 0)["interface"]


def test_bridges(key):
    tokens = jnp.array([[2, 5]])
    sure = 50.0 * jax.nn.one_hot(tokens, VOCABULARY)
    unsure = jnp.zeros((1, 2, VOCABULARY)).at[..., 3].set(0.1)
    rows = task_of().table.rows(jnp.arange(VOCABULARY))
    for bridge in ("hard", "soft", "soft_normalised", "draw"):
        task = task_of(bridge=bridge)
        np.testing.assert_allclose(task.bridge({}, sure, key), rows[tokens], atol=1e-5)
        unsure_row = task.bridge({}, unsure)[0, 0]
        norm = float(jnp.linalg.norm(unsure_row))
        assert norm < 0.9 if bridge == "soft" else norm == pytest.approx(1, rel=1e-5)
        if bridge in ("hard", "draw"):
            np.testing.assert_allclose(unsure_row, rows[3], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigma": "batch"}, "autoregressive.sigma is 'batch'; allowed: 'sequence' or 'token'"),
        ({"bridge": "argmax"}, "autoregressive.bridge is 'argmax'; allowed: 'hard' or 'soft' or "),
        ({"readout": "dot"}, "autoregressive.readout is 'dot'; allowed: 'head' or 'tied' or 'p"),
        ({"weight": "snr"}, "autoregressive.weight is 'snr'; allowed: 'none' or 'edm'"),
        ({"readout_scale": 0.0}, "autoregressive.readout_scale is 0.0; allowed: a number above 0"),
        ({"next_token_weight": -1.0}, "autoregressive.next_token_weight is -1.0; allowed: 0 or"),
    ],
)
def test_refusals(settings, sentence):
    with pytest.raises(SettingError, match=sentence):
        AutoregressiveConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": -1.0}, "sampling.temperature is -1.0; allowed: 0 or more"),
        ({"top_p": 1.5}, r"sampling.top_p is 1.5; allowed: a number in \(0, 1\]"),
        ({"guidance": 2.0}, "sampling.guidance is 2.0; allowed: 1.0, since the text before"),
        ({"churn": 1.0}, "sampling.churn is 1.0; allowed: 0 where text is written"),
    ],
)
def test_refusals_of_sampling(settings, sentence):
    with pytest.raises(SettingError, match=sentence):
        GenerationConfig(**settings)


def test_refusals_of_writing(key):
    task = plain_task()
    with pytest.raises(SettingError, match=r"sampling.solver is 'heun'; allowed: 'euler' or"):
        Generator(task, GenerationConfig(solver="heun"))
    generator = Generator(task, GenerationConfig())
    prompt = np.zeros((1, 4), np.int32)
    for count, sentence in (
        (0, "number of tokens to write is 0; allowed: 1 or more"),
        (6, "length of prompt and what follows is 10; allowed: at most 9, which is data.length"),
    ):
        with pytest.raises(SettingError, match=sentence):
            list(generator.stream({}, prompt, count, seed=key))


def test_likelihoods_are_measured_from_the_prior(key):
    """As writing begins: also a small sigma_max tells nothing of the token to find."""
    task = dataclasses.replace(task_of(), noise=dataclasses.replace(NOISE, sigma_max=0.3))
    blocks = blocks_of(task, key)
    tokens = jnp.arange(2 * LENGTH).reshape(2, LENGTH) % VOCABULARY
    entropy = jax.jit(task.entropy)
    found = entropy(blocks[0], tokens, jnp.zeros(2), key)
    z = task.noise.corrupt(key, jnp.zeros((2 * LENGTH, 8)), jnp.full(2 * LENGTH, 0.3))
    logits, _ = task.answer(blocks[0], z.reshape(2, LENGTH, 8), jnp.full((2, 1), 0.3), tokens)
    expected = -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    beside = entropy(blocks[0], tokens, jnp.full(2, 1e-3), key)
    assert jnp.abs(beside - found).max() > 0.1
