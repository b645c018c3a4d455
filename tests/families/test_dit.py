"""DiT against an independent statement of it in NumPy, and what the trainer relies on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.families.dit import DiT, DiTConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE_SHAPE = (4, 6, 3)  # not square, so that rows cannot pass for columns
NUM_CLASSES = 5
BATCH = 3


def tiny(image_shape: tuple[int, int, int] = IMAGE_SHAPE, **settings: Any) -> DiT:
    config = DiTConfig(**{"size": "tiny", "depth": 2, "width": 16, "num_heads": 2, **settings})
    return DiT(config, image_shape, NUM_CLASSES)


def parameters(network: DiT) -> Any:
    """Parameters without zeros, since many start at zero and would hide bugs."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda key: network.init(key, range(network.depth)), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), x.dtype), shapes)


# Compiled once for all tests that need no other network.
apply = jax.jit(tiny().apply)
init = jax.jit(tiny().init, static_argnums=1)


@pytest.fixture
def params() -> Any:
    return parameters(tiny())


@pytest.fixture
def inputs(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    z = jax.random.normal(key, (BATCH, *IMAGE_SHAPE))
    return z, jnp.array([-1.5, 0.0, 1.1]), jnp.array([0, NUM_CLASSES, 3])


# --- the reference, float64, one example at a time ------------------------------------------------


def affine(p: Any, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def position_code(row: int, column: int, width: int) -> np.ndarray:
    code = []
    for position in (column, row):
        angles = [position / 10_000 ** (k / (width // 4)) for k in range(width // 4)]
        code += [*np.sin(angles), *np.cos(angles)]
    return np.array(code)


def reference(
    p: Any, z: np.ndarray, c_noise: float, label: int, patch: int, heads: int
) -> np.ndarray:
    """F for one image [H, W, C], from the description in Peebles and Xie 2023."""
    interface = p["interface"]
    height, width, channels = z.shape
    grid = [(r, c) for r in range(height // patch) for c in range(width // patch)]
    corners = [
        (slice(r * patch, (r + 1) * patch), slice(c * patch, (c + 1) * patch)) for r, c in grid
    ]
    features = interface["patches"]["bias"].size
    x = np.stack([affine(interface["patches"], z[corner].ravel()) for corner in corners])
    x = x + np.stack([position_code(r, c, features) for r, c in grid])

    angles = c_noise / 10_000 ** (np.arange(128) / 128)
    level = np.concatenate([np.cos(angles), np.sin(angles)])
    level = affine(
        interface["noise_level"]["out"], silu(affine(interface["noise_level"]["expand"], level))
    )
    condition = silu(level + interface["label"]["embedding"][label])

    depth = p["layers"]["modulation"]["linear"]["bias"].shape[0]
    for i in range(depth):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(
            affine(layer["modulation"]["linear"], condition), 6
        )
        qkv = affine(layer["attention"]["qkv"], norm(x) * (1 + scale_a) + shift_a)
        mixed = np.empty_like(x)
        for part in np.split(np.arange(features), heads):
            q, k, v = (qkv[:, part + offset * features] for offset in range(3))
            weights = np.exp(q @ k.T / np.sqrt(len(part)))
            mixed[:, part] = weights / weights.sum(1, keepdims=True) @ v
        x = x + gate_a * affine(layer["attention"]["out"], mixed)
        h = affine(layer["mlp"]["expand"], norm(x) * (1 + scale_m) + shift_m)
        h = h / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + gate_m * affine(layer["mlp"]["contract"], h)

    shift, scale = np.split(affine(interface["modulation"]["linear"], condition), 2)
    patches = affine(interface["out"], norm(x) * (1 + scale) + shift)
    image = np.empty_like(z)
    for corner, values in zip(corners, patches, strict=True):
        image[corner] = values.reshape(patch, patch, channels)
    return image


def test_equals_the_reference(params, inputs):
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    z, c_noise, label = map(np.asarray, inputs)
    expected = [
        reference(wide, z[i].astype(np.float64), float(c_noise[i]), label[i], patch=2, heads=2)
        for i in range(BATCH)
    ]
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(apply(params, *inputs), expected, rtol=1e-5, atol=1e-5)


# --- initial weights ------------------------------------------------------------------------------


def test_output_is_zero_at_the_start(key, inputs):
    out = apply(init(key, (0, 1)), *inputs)
    assert out.shape == inputs[0].shape and not out.any()


def test_initial_weights(key):
    params = init(key, (0, 1))
    interface, layers = params["interface"], params["layers"]
    for zero in (layers["modulation"], interface["modulation"], interface["out"]):
        assert not any(leaf.any() for leaf in jax.tree.leaves(zero))
    np.testing.assert_allclose(interface["label"]["embedding"].std(), 0.02, rtol=0.2)
    for weights, fans in [
        (interface["patches"]["kernel"], 12 + 16),
        (layers["attention"]["qkv"]["kernel"], 4 * 16),
        (layers["attention"]["out"]["kernel"], 2 * 16),
        (layers["mlp"]["expand"]["kernel"], 5 * 16),
        (layers["mlp"]["contract"]["kernel"], 5 * 16),
    ]:
        bound = np.sqrt(6 / fans)
        assert 0.95 * bound < np.abs(weights).max() <= bound


def test_parameters_are_plain_float32_trees(params):
    def check(node: Any) -> None:
        if isinstance(node, dict):
            assert all(isinstance(name, str) for name in node)
            list(map(check, node.values()))
        else:
            assert type(node).__module__.startswith("jax") and node.dtype == jnp.float32

    check(params)


def test_a_block_starts_from_the_whole_networks_weights(key):
    whole, block = init(key, (0, 1)), init(key, (1,))
    jax.tree.map(np.testing.assert_array_equal, block["interface"], whole["interface"])
    last = jax.tree.map(lambda x: x[1:], whole["layers"])
    jax.tree.map(np.testing.assert_array_equal, block["layers"], last)
    kernels = whole["layers"]["mlp"]["expand"]["kernel"]
    assert not (kernels[0] == kernels[1]).any()


@pytest.mark.parametrize(
    ("size", "millions"), [("S", 32.87), ("B", 130.3), ("L", 457.8), ("XL", 674.8)]
)
def test_published_parameter_counts(key, size, millions):
    network = DiT(DiTConfig(size), (32, 32, 4), 1000)
    count = count_parameters(network, key)
    # The published network also predicts a variance: 2 x 2 x 4 more outputs of the final layer.
    count += 16 * (DiTConfig(size).dimensions.width + 1)
    assert float(f"{count / 1e6:.4g}") == millions


def test_parameter_count_on_cifar(key):
    network = DiT(DiTConfig("S"), (32, 32, 3), 10)
    assert round(count_parameters(network, key) / 1e6, 2) == 32.48


def count_parameters(network: DiT, key: jax.Array) -> int:
    init = functools.partial(network.init, layers=range(network.depth))
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, key)))


# --- what the trainer relies on -------------------------------------------------------------------


def test_a_missing_label_is_the_null_label(params, inputs):
    z, c_noise, _ = inputs
    null = jnp.full(BATCH, NUM_CLASSES)
    missing = apply(params, z, c_noise)
    np.testing.assert_allclose(missing, apply(params, z, c_noise, null), atol=1e-6)
    assert (missing != apply(params, z, c_noise, null - 1)).any()


def test_examples_do_not_mix(params, inputs):
    changed = [x.at[1].set(x[0]) for x in inputs]
    before, after = apply(params, *inputs), apply(params, *changed)
    np.testing.assert_array_equal(before[jnp.array([0, 2])], after[jnp.array([0, 2])])
    np.testing.assert_allclose(after[1], after[0], atol=1e-6)


def test_any_run_of_layers_is_a_network(params, inputs):
    first, second = (
        {**params, "layers": jax.tree.map(lambda x, i=i: x[i : i + 1], params["layers"])}
        for i in range(2)
    )
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), first["layers"], second["layers"])
    whole = apply(params, *inputs)
    np.testing.assert_array_equal(apply({**params, "layers": joined}, *inputs), whole)
    assert (apply(first, *inputs) != whole).any()


def test_may_be_vmapped_over_blocks(params, inputs):
    other = jax.tree.map(jnp.negative, params)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, other)
    together = jax.jit(jax.vmap(lambda p: tiny().apply(p, *inputs)))(stacked)
    for block, out in zip((params, other), together, strict=True):
        np.testing.assert_allclose(out, apply(block, *inputs), rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_parameters_and_output_in_float32(params, inputs):
    network = tiny(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters(network))} == {jnp.dtype("float32")}
    out, exact = jax.jit(network.apply)(params, *inputs), apply(params, *inputs)
    assert out.dtype == jnp.float32
    assert 0 < jnp.abs(out - exact).max() < 0.03 * jnp.abs(exact).max()


def test_remat_gives_the_same_gradient_in_less_memory(key):
    z = jax.random.normal(key, (16, 16, 16, 3))
    network = tiny((16, 16, 3))
    params = parameters(network)

    def gradient(remat: bool) -> tuple[Any, int]:
        loss = lambda p: jnp.square(network.apply(p, z, jnp.ones(16), remat=remat)).mean()  # noqa: E731
        compiled = jax.jit(jax.grad(loss)).lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    (lean, lean_bytes), (plain, plain_bytes) = gradient(remat=True), gradient(remat=False)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), lean, plain)
    assert all(leaf.any() for leaf in jax.tree.leaves(plain["layers"]))
    assert lean_bytes < plain_bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "M"}, r"model\.size is 'M'; allowed: tiny, S, B, L, XL"),
        ({"dtype": "float16"}, r"model\.dtype is 'float16'; allowed: float32, bfloat16"),
        ({"patch_size": 0}, r"model\.patch_size is 0"),
        ({"patch_size": 4}, r"model\.patch_size is 4; .* 4 and 6"),
        ({"depth": 0}, r"model\.depth is 0"),
        ({"width": -16}, r"model\.width is -16"),
        ({"width": 18}, r"model\.width is 18; allowed: a multiple of 4"),
        ({"num_heads": 3}, r"model\.num_heads is 3; allowed: a divisor of the width 16"),
        ({"mlp_ratio": 0.0}, r"model\.mlp_ratio is 0\.0"),
    ],
)
def test_refuses_impossible_settings(settings, message):
    with pytest.raises(SettingError, match=message):
        tiny(**settings)


def test_overrides_replace_what_the_size_says():
    assert DiTConfig("S").dimensions == (12, 384, 6)
    assert DiTConfig("S", depth=3, width=64, num_heads=4).dimensions == (3, 64, 4)
    assert tiny().depth == 2
