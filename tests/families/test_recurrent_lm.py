"""Recurrent depth: who may look at whom, how deep, with which gradients, at what cost."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dbjax.autoregressive import FixedTable, RecurrentTask, SequenceConfig
from dbjax.errors import SettingError
from dbjax.families.huginn import Huginn, HuginnConfig, draw_depth, draw_state, fixed_state
from dbjax.families.recurrent_lm import DenoiserConfig, RecurrentDenoiser
from dbjax.flops import count_flops
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from tests.helpers import relative_distance, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCABULARY, LENGTH, WIDTH = 7, 6, 8
SHAPE: dict[str, Any] = {
    "prelude": 1, "core": 2, "coda": 1, "width": WIDTH, "num_heads": 2, "mlp_hidden": 12,
}  # fmt: skip
TWIN = Huginn(HuginnConfig(**SHAPE, mean_recurrence=3, backprop_depth=2), VOCABULARY)
OURS = RecurrentDenoiser(
    DenoiserConfig(**SHAPE, condition_width=6), VOCABULARY, trained_targets=False
)
LEVEL = jnp.array([-0.5, 0.3])


def params_of(network: Any, key: jax.Array) -> Any:
    return shaken(jax.jit(network.init, static_argnums=1)(key, tuple(range(network.depth))), key)


@pytest.fixture
def twin(key: jax.Array) -> Any:
    return params_of(TWIN, key)


@pytest.fixture
def ours(key: jax.Array) -> Any:
    return params_of(OURS, key)


@pytest.fixture
def tokens(key: jax.Array) -> jax.Array:
    return jax.random.randint(key, (2, LENGTH), 0, VOCABULARY)


@pytest.fixture
def state(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (2, LENGTH, WIDTH))


def changed(before: Any, after: Any) -> np.ndarray:
    return np.abs(np.asarray(before - after)).max(axis=-1)


def assert_causal(apply: Any, tokens: jax.Array) -> None:
    """Token j changes slots after j of its own text, and only those."""
    before = apply(tokens)
    for j in range(LENGTH):
        found = changed(before, apply(tokens.at[0, j].set((tokens[0, j] + 1) % VOCABULARY)))
        np.testing.assert_array_equal(found[0, : j + 1], 0)
        # The positive control: what may be read is read.
        assert (found[0, j + 1 :] > 1e-4).all()
        np.testing.assert_array_equal(found[1], 0)


def test_no_slot_of_the_twin_is_shown_its_answer(twin, tokens, key):
    apply = jax.jit(TWIN.apply)
    assert_causal(functools.partial(apply, twin), tokens)
    assert_causal(functools.partial(apply, twin, key=key), tokens)


def test_no_slot_of_ours_is_shown_its_answer_but_in_its_noisy_embedding(ours, tokens, state):
    """At one z tokens reach later slots alone; z reaches its own slot and later ones."""
    apply = jax.jit(OURS.apply)
    assert_causal(lambda tokens: apply(ours, state, LEVEL, tokens), tokens)
    before = apply(ours, state, LEVEL, tokens)
    for j in range(LENGTH):
        found = changed(before, apply(ours, state.at[0, j].add(1.0), LEVEL, tokens))
        np.testing.assert_array_equal(found[0, :j], 0)
        assert (found[0, j:] > 1e-4).all()
        np.testing.assert_array_equal(found[1], 0)
    found = changed(before, apply(ours, state, LEVEL.at[0].add(0.5), tokens))
    assert (found[0] > 1e-4).all()
    np.testing.assert_array_equal(found[1], 0)


def test_what_the_prelude_reads_is_the_same_at_every_level(ours, tokens, state):
    """So that with caches it is read once for a token."""
    vectors = OURS.interface(ours).vectors(LEVEL)
    assert vectors.shape == (3, 6, 2, 1, WIDTH)
    positions, empty = jnp.arange(LENGTH), OURS.empty(2, LENGTH)
    before = jnp.concatenate([jnp.full((2, 1), VOCABULARY), tokens[:, :-1]], axis=1)
    read, _ = jax.jit(OURS.read)(ours, before, positions, empty.prelude)
    denoise, apply = jax.jit(OURS.denoise), jax.jit(OURS.apply)
    for level in LEVEL:
        found, _ = denoise(ours, state, level[None], read, positions, (empty.core, empty.coda))
        whole = apply(ours, state, level[None], tokens)
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)


def test_the_twin_with_caches_is_the_same(twin, tokens):
    whole = jax.jit(TWIN.apply)(twin, tokens)
    prefill, step = jax.jit(TWIN.prefill, static_argnums=2), jax.jit(TWIN.step)
    caches = prefill(twin, tokens[:, :2], LENGTH)
    for i in range(2, LENGTH):
        found, caches = step(twin, caches, jnp.int32(i), tokens[:, i - 1])
        np.testing.assert_allclose(found, whole[:, i], rtol=1e-4, atol=1e-3)


def test_depths_and_states_of_training(key):
    keys = jax.random.split(key, 40_000)
    depths = np.asarray(jax.jit(jax.vmap(functools.partial(draw_depth, mean=32)))(keys))
    assert depths.min() >= 1
    assert depths.mean() == pytest.approx(33, rel=0.01)
    # Of a Poisson draw with a log-normal rate of mean 32.
    variance = 32 + 32**2 * (np.exp(0.25) - 1)
    assert depths.std() == pytest.approx(np.sqrt(variance), rel=0.03)
    states = draw_state(key, (100_000,))
    # Of a standard normal distribution cut at 3 the deviation is 0.9866.
    assert states.std() == pytest.approx(0.9866 * np.sqrt(2 / 5), rel=0.01)
    assert np.abs(states).max() <= 3 * np.sqrt(2 / 5)


def entropy(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens).mean()


def test_only_the_last_iterations_have_gradients(twin, tokens, state):
    """Exactly those of the composition written out, with parameters of its own for each part."""

    @functools.partial(jax.jit, static_argnums=4)
    def found(params: Any, state: Any, still: Any, count: Any, remat: bool) -> Any:
        def loss(params: Any, state: jax.Array) -> jax.Array:
            return entropy(TWIN.unroll(params, tokens, state, still, count, remat=remat), tokens)

        return jax.grad(loss, argnums=(0, 1))(params, state)

    def written_out(outer: Any, early: Any, late: Any, state: jax.Array, still: int) -> jax.Array:
        """The rest of the network; iterations without gradient; iterations with it."""
        layers = TWIN.layer_modules(outer)
        interface = TWIN.interface(outer)
        before = jnp.concatenate([jnp.full((2, 1), VOCABULARY), tokens[:, :-1]], axis=1)
        read = layers[0](interface.embed(before))
        for params, count in ((early, still), (late, 2 if still else 1)):
            own = TWIN.interface(params)
            seen = jax.lax.stop_gradient(read) if params is early else read
            for _ in range(count):
                state = own.inject(state, seen)
                for layer in TWIN.layer_modules(params)[1:3]:
                    state = layer(state)
        hidden = layers[3](interface.norm(state))
        return entropy(interface.head(interface.norm(hidden)), tokens)

    for still, count in ((2, 2), (0, 1)):
        expected = jax.jit(jax.grad(written_out, argnums=(0, 1, 2)), static_argnums=4)
        outer, early, late = expected(twin, twin, twin, state, still)
        if still:
            # Where gradients would go on: the reference itself has them.
            assert float(optax.tree.norm(early)) > 1e-4
        total = jax.tree.map(jnp.add, outer, late)
        for remat in (False, True):
            by_params, by_state = found(twin, state, jnp.int32(still), jnp.int32(count), remat)
            assert relative_distance(by_params, total) < 1e-4
            np.testing.assert_array_equal(by_state, 0)
            prelude = jax.tree.map(lambda x: x[0], by_params["layers"])
            assert float(optax.tree.norm(prelude)) > 1e-4


def test_evaluation_repeats_the_core_as_often_as_it_says(twin, tokens):
    assert TWIN.layer_evaluations == 1 + 3 * 2 + 1
    deeper = Huginn(HuginnConfig(**SHAPE, mean_recurrence=5, backprop_depth=2), VOCABULARY)
    state, unroll = fixed_state(jnp.arange(LENGTH), 2, WIDTH), jax.jit(TWIN.unroll)
    for network, depth in ((TWIN, 3), (deeper, 5)):
        expected = unroll(twin, tokens, state, depth - 2, 2)
        np.testing.assert_allclose(jax.jit(network.apply)(twin, tokens), expected, atol=1e-4)


def published() -> tuple[Huginn, RecurrentDenoiser]:
    ours = RecurrentDenoiser(DenoiserConfig(), 32_000, trained_targets=False)
    return Huginn(HuginnConfig(), 32_000), ours


def shapes(network: Any) -> Any:
    return jax.eval_shape(lambda key: network.init(key, range(network.depth)), jax.random.key(0))


def test_published_size():
    """50.5 M parameters; the layers of both families are the same trees."""
    twin, ours = map(shapes, published())
    layer = 4 * 512**2 + 3 * 512 * 2048 + 4 * 512 + 2 * 512
    rest = 32_001 * 512 + 2 * 512**2 + 512
    assert sum(x.size for x in jax.tree.leaves(twin)) == 8 * layer + rest == 50_488_320
    assert twin["layers"] == ours["layers"]
    more = set(ours["interface"]) - set(twin["interface"])
    assert more == {"noise_level", "modulation"}


def test_a_step_costs_an_eighth_of_the_twins():
    """Of the twin at its mean depth, the head left out; with it, a sixth."""
    batch, length, width, vocabulary = 2, 256, 512, 32_000
    twin, ours = published()
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    state = jax.ShapeDtypeStruct((batch, length, width), jnp.float32)
    noise = LogNormalNoise()
    task = RecurrentTask(
        ours,
        noise,
        make_partition(PartitionConfig(1), noise, ours.depth),
        SequenceConfig(),
        length,
        FixedTable(jax.random.key(0), width),
    )

    def twin_loss(params: Any, tokens: jax.Array, state: jax.Array) -> jax.Array:
        return entropy(twin.unroll(params, tokens, state, 25, 8), tokens)

    def our_loss(params: Any, tokens: jax.Array) -> jax.Array:
        key, interval = jax.random.key(0), jnp.array([0.0, 1.0])
        return task.loss(params, {"tokens": tokens}, interval, key)[0]

    theirs = count_flops(jax.grad(twin_loss), shapes(twin), tokens, state)
    mine = count_flops(jax.grad(our_loss), shapes(ours), tokens)
    head = 3 * 2 * batch * length * width * vocabulary
    assert 8 < (theirs - head) / (mine - head) < 9
    assert 6 < theirs / mine < 7


@pytest.mark.parametrize(
    ("config", "settings", "sentence"),
    [
        (DenoiserConfig, {"core": 0}, "model.core is 0; allowed: a positive integer"),
        (DenoiserConfig, {"condition_width": 0}, "model.condition_width is 0; allowed: a pos"),
        (HuginnConfig, {"mean_recurrence": 0}, "model.mean_recurrence is 0; allowed: a positive"),
        (HuginnConfig, {"num_heads": 5}, "model.num_heads is 5; allowed: a number that divides"),
        (HuginnConfig, {"dtype": "float16"}, "model.dtype is 'float16'; allowed: float32, bfl"),
        (SequenceConfig, {"sigma": "token"}, "autoregressive.sigma is 'token'; allowed: 'seque"),
        (
            SequenceConfig,
            {"next_token_weight": 0.5},
            "autoregressive.next_token_weight is 0.5; allowed: 0 where there is no stream",
        ),
    ],
)
def test_refusals(config, settings, sentence):
    with pytest.raises(SettingError, match=sentence):
        config(**settings)
