"""ViT against an independent statement of it in NumPy, and what the trainer relies on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from dbjax.errors import SettingError
from dbjax.families.vit import PlainViT, ViT, ViTConfig
from dbjax.noise import LogNormalNoise
from tests.helpers import relative_distance

pytestmark = pytest.mark.usefixtures("quick_compilation")

IMAGE_SHAPE = (4, 6, 3)  # not square, so that rows cannot pass for columns
NUM_CLASSES = 5
BATCH = 3
PATCH, WIDTH, HEADS = 2, 14, 2  # a sixth of 14 is rounded down
LAYOUTS = ("released", "paper")


def tiny(family: Any = ViT, **settings: Any) -> Any:
    config = {"patch_size": PATCH, "depth": 2, "width": WIDTH, "num_heads": HEADS}
    return family(ViTConfig(**{**config, "mlp_hidden": 20, **settings}), IMAGE_SHAPE, NUM_CLASSES)


def parameters(network: Any, num_layers: int = 1, seed: int = 0) -> Any:
    """Parameters without zeros, since many start at zero and would hide bugs."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda key: network.init(key, range(num_layers)), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), shapes)


# Compiled once for all tests that need no other network, most of them with blocks of one layer.
networks = {layout: tiny(layout=layout) for layout in LAYOUTS}
apply = {layout: jax.jit(network.apply) for layout, network in networks.items()}
logits = {layout: jax.jit(network.logits) for layout, network in networks.items()}
network = networks["released"]
init = jax.jit(network.init, static_argnums=1)


@pytest.fixture
def params() -> Any:
    return parameters(network)


@pytest.fixture
def inputs(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    z_key, image_key = jax.random.split(key)
    z = jax.random.normal(z_key, (BATCH, WIDTH))
    return z, jnp.array([-1.5, 0.0, 1.1]), jax.random.normal(image_key, (BATCH, *IMAGE_SHAPE))


# --- the reference, float64, one example at a time ------------------------------------------------


def wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def affine(p: Any, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def norm(p: Any, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * p["scale"] + p["bias"]


def self_attention(p: Any, x: np.ndarray) -> np.ndarray:
    mixed = np.empty_like(x)
    qkv = affine(p["qkv"], x)
    for part in np.split(np.arange(WIDTH), HEADS):
        q, k, v = (qkv[:, part + offset * WIDTH] for offset in range(3))
        weights = np.exp(q @ k.T / np.sqrt(len(part)))
        mixed[:, part] = weights / weights.sum(1, keepdims=True) @ v
    return affine(p["out"], mixed)


def mlp(p: Any, x: np.ndarray) -> np.ndarray:
    h = affine(p["expand"], x)
    return affine(p["contract"], h * (1 + erf(h / np.sqrt(2))) / 2)


def reference_condition(interface: Any, c_noise: float) -> np.ndarray:
    angles = c_noise * np.exp(-np.log(10_000) * np.arange(128) / 128)
    level = affine(
        interface["noise_level"]["expand"], np.concatenate([np.cos(angles), np.sin(angles)])
    )
    return silu(affine(interface["noise_level"]["out"], silu(level)))


def reference_tokens(interface: Any, image: np.ndarray, z: np.ndarray | None) -> np.ndarray:
    height, width, _ = image.shape
    patches = [
        affine(interface["patches"], image[r : r + PATCH, c : c + PATCH].ravel())
        for r in range(0, height, PATCH)
        for c in range(0, width, PATCH)
    ]
    if "class_token" in interface:
        rows = [interface["class_token"].ravel(), *patches, *([] if z is None else [z])]
    else:
        rows = [z, *patches]
    assert interface["positions"].size == len(rows) * WIDTH
    return np.stack(rows) + interface["positions"].reshape(-1, WIDTH)


def reference(p: Any, z: np.ndarray, c_noise: float, image: np.ndarray) -> np.ndarray:
    """F of one example [width] (shared/facts/vit.md, section 2, steps 2 to 6)."""
    x = reference_tokens(p["interface"], image, z)
    condition = reference_condition(p["interface"], c_noise)
    for i in range(len(p["layers"]["modulation"]["linear"]["bias"])):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(
            silu(affine(layer["modulation"]["linear"], condition)), 6
        )
        h = norm(layer["attention_norm"], x) * (1 + scale_a) + shift_a
        x = x + gate_a * self_attention(layer["attention"], h)
        h = norm(layer["mlp_norm"], x) * (1 + scale_m) + shift_m
        x = x + gate_m * mlp(layer["mlp"], h)
    return norm(p["interface"]["norm"], x)[0]


def reference_logits(p: Any, estimate: np.ndarray, c_noise: float) -> np.ndarray:
    """Logits of one example (step 8)."""
    condition = reference_condition(p["interface"], c_noise)
    shift, scale = np.split(silu(affine(p["interface"]["modulation"]["linear"], condition)), 2)
    return affine(p["interface"]["classifier"], estimate * (1 + scale) + shift)


def preconditioning(sigma: float) -> tuple[float, float, float, float]:
    """c_skip, c_out, c_in, c_noise with sigma_data = 0.5 (step 1)."""
    total = sigma**2 + 0.25
    return 0.25 / total, sigma * 0.5 / total**0.5, total**-0.5, float(np.log(sigma) / 4)


def infer(denoise: Any, table: Any, z: Any) -> Any:
    """Two Euler steps and a last call, a block for each (section 5); logits."""
    sigmas = (80.0, 0.3012, 0.002)
    for i in range(2):
        logits = denoise(i, z, sigmas[i])
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        clean = weights / weights.sum(-1, keepdims=True) @ table
        z = z + (sigmas[i + 1] - sigmas[i]) * (z - clean) / sigmas[i]
    return denoise(2, z, sigmas[2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_block_equals_the_reference(inputs, layout):
    params = parameters(networks[layout])
    z, c_noise, image = wide(inputs)
    expected = [reference(wide(params), z[i], c_noise[i], image[i]) for i in range(BATCH)]
    assert np.std(expected) > 0.1
    assert relative_distance(apply[layout](params, *inputs), expected) < 1e-5
    out = logits[layout](params, inputs[0], inputs[1])
    expected = [reference_logits(wide(params), z[i], c_noise[i]) for i in range(BATCH)]
    assert np.std(expected) > 0.1
    assert relative_distance(out, expected) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inference_equals_the_reference(inputs, layout):
    blocks = [parameters(networks[layout], seed=seed) for seed in range(3)]
    # Rows so far apart that the bridge neither averages all nor picks one.
    table = 5 * networks[layout].label_table(blocks[0])
    assert table.shape == (NUM_CLASSES, WIDTH)
    classify = jax.jit(networks[layout].classify)
    start = np.asarray(inputs[0]) * np.sqrt(1 + 80**2, dtype=np.float32)
    images = wide(inputs[2])

    def denoise(block: int, z: np.ndarray, sigma: float) -> np.ndarray:
        c = LogNormalNoise().precondition(jnp.full(BATCH, sigma))
        return np.asarray(classify(blocks[block], jnp.asarray(z), c, inputs[2]).logits)

    def expected_denoise(block: int, z: np.ndarray, sigma: float) -> np.ndarray:
        c_skip, c_out, c_in, c_noise = preconditioning(sigma)
        p = wide(blocks[block])
        raw = np.stack([reference(p, c_in * z[i], c_noise, images[i]) for i in range(BATCH)])
        return np.stack([reference_logits(p, row, c_noise) for row in c_skip * z + c_out * raw])

    out = infer(denoise, np.asarray(table), start)
    expected = infer(expected_denoise, wide(table), wide(start))
    assert np.std(expected) > 0.1
    assert relative_distance(out, expected) < 1e-5


def test_plain_network_equals_the_reference(inputs):
    plain = tiny(PlainViT)
    params = parameters(plain)
    p, expected = wide(params), []
    layer = jax.tree.map(lambda leaf: leaf[0], p["layers"])
    for image in wide(inputs[2]):
        x = reference_tokens(p["interface"], image, None)
        x = x + self_attention(layer["attention"], norm(layer["attention_norm"], x))
        x = x + mlp(layer["mlp"], norm(layer["mlp_norm"], x))
        expected.append(affine(p["interface"]["classifier"], norm(p["interface"]["norm"], x)[0]))
    assert np.std(expected) > 0.1
    out = jax.jit(functools.partial(plain.classify, remat=True))(params, inputs[2]).logits
    assert relative_distance(out, expected) < 1e-5


# --- initial weights ------------------------------------------------------------------------------


def test_layers_start_as_the_identity_and_logits_at_zero(key, inputs):
    params = init(key, (0, 1))
    z, c_noise, image = inputs
    out = apply["released"](params, z, c_noise, image)
    first = wide(z) + wide(params["interface"]["positions"])[0, 0]
    assert relative_distance(out, norm(wide(params["interface"]["norm"]), first)) < 1e-5
    assert not logits["released"](params, out, c_noise).any()


def test_initial_weights(key):
    params = init(key, (0, 1))
    interface, layers = params["interface"], params["layers"]
    for zero in (layers["modulation"], interface["modulation"], interface["classifier"]):
        assert not any(leaf.any() for leaf in jax.tree.leaves(zero))
    for one in (layers["attention_norm"], layers["mlp_norm"], interface["norm"]):
        assert (one["scale"] == 1).all() and not one["bias"].any()
    for module in (
        interface["patches"],
        interface["noise_level"]["expand"],
        layers["attention"]["qkv"],
        layers["attention"]["out"],
        layers["mlp"]["expand"],
        layers["mlp"]["contract"],
    ):
        np.testing.assert_allclose(module["kernel"].std(), 0.02, rtol=0.2)
        assert not module["bias"].any()
    for table in (interface["positions"], interface["label_table"]):
        np.testing.assert_allclose(table.std(), 0.02, rtol=0.25)


def test_plain_network_starts_with_a_head(key):
    interface = jax.jit(tiny(PlainViT).init, static_argnums=1)(key, (0,))["interface"]
    np.testing.assert_allclose(interface["classifier"]["kernel"].std(), 0.02, rtol=0.3)
    assert interface["class_token"].any()


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


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("family", "settings", "side", "num_classes", "layer", "whole"),
    [
        (ViT, {}, 32, 100, 873_088, 10_529_095),
        # One position and the class token more.
        (ViT, {"layout": "paper"}, 32, 100, 873_088, 10_529_095 + 2 * 128),
        (PlainViT, {}, 32, 100, 873_088 - 16_896, 10_302_180),
        (ViT, {"width": 768, "num_heads": 12}, 64, 200, None, 92_979_144),
    ],
)
def test_parameter_counts(key, family, settings, side, num_classes, layer, whole):
    network = family(ViTConfig(**settings), (side, side, 3), num_classes)
    params = jax.eval_shape(functools.partial(network.init, layers=range(12)), key)
    assert count(params) == whole
    assert layer is None or count(params["layers"]) == 12 * layer


# --- dropout and remat ----------------------------------------------------------------------------


@pytest.fixture
def dropout_key() -> jax.Array:
    """A key of the kind whose draws compile fastest."""
    return jax.random.key(0, impl="unsafe_rbg")


def test_dropout_follows_the_key_and_is_off_without(dropout_key, params, inputs):
    run = apply["released"]
    keys = jax.random.split(dropout_key)
    first, second = (run(params, *inputs, key=k) for k in keys)
    np.testing.assert_array_equal(first, run(params, *inputs, key=keys[0]))
    clean = run(params, *inputs)
    np.testing.assert_array_equal(clean, run(params, *inputs))
    assert relative_distance(first, second) > 1e-2 and relative_distance(first, clean) > 1e-2


@pytest.mark.parametrize("family", [ViT, PlainViT])
def test_dropout_reaches_tokens_attention_and_mlp(key, inputs, monkeypatch, family):
    shapes = []

    def spy(x: Any, rate: float, key: Any) -> Any:
        assert rate == 0.1 and key is not None
        shapes.append(x.shape)
        return x

    for module in ("families.vit", "nn.attention", "nn.mlp"):
        monkeypatch.setattr(f"dbjax.{module}.dropout", spy)
    network = tiny(family)
    plain = lambda p, z, c, x, key: network.classify(p, x, key=key).logits  # noqa: E731
    call = network.apply if family is ViT else plain
    jax.eval_shape(functools.partial(call, parameters(network), *inputs), key=key)
    tokens = (BATCH, 7, WIDTH)
    assert shapes == [tokens, (BATCH, HEADS, 7, 7), tokens, tokens]


def test_remat_gives_the_same_gradient_under_dropout(dropout_key, inputs):
    @functools.partial(jax.jit, static_argnames="remat")
    def gradient(params: Any, remat: bool) -> Any:
        def loss(params: Any) -> Any:
            raw = network.apply(params, *inputs, key=dropout_key, remat=remat)
            return jnp.square(network.logits(params, raw, inputs[1])).mean()

        return jax.value_and_grad(loss)(params)

    params = parameters(network)
    kept, again = gradient(params, False), gradient(params, True)
    assert relative_distance(kept, again) < 1e-5
    unused = kept[1]["interface"].pop("label_table")
    assert not unused.any() and all(leaf.any() for leaf in jax.tree.leaves(kept))


# --- what the trainer relies on -------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pixel_and_the_label_reach_the_output(inputs, layout):
    params = parameters(networks[layout])
    out = lambda *x: networks[layout].apply(params, *x)[1, 0]  # noqa: E731
    for leaf in jax.jit(jax.grad(out, argnums=(0, 1, 2)))(*inputs):
        assert leaf[1].all()
        assert not leaf[jnp.array([0, 2])].any()


def test_gates_can_start_open(params, inputs):
    """Layers of gates that stay 1 are those of the plain network."""
    closed = {**params, "layers": {**params["layers"]}}
    closed["layers"]["modulation"] = jax.tree.map(jnp.zeros_like, params["layers"]["modulation"])
    z, _, image = (wide(x) for x in inputs)
    found = jax.jit(tiny(gates=1).apply)(closed, *inputs)
    p, expected = wide(params), []
    layer = jax.tree.map(lambda leaf: leaf[0], p["layers"])
    for i in range(BATCH):
        x = reference_tokens(p["interface"], image[i], z[i])
        x = x + self_attention(layer["attention"], norm(layer["attention_norm"], x))
        x = x + mlp(layer["mlp"], norm(layer["mlp_norm"], x))
        expected.append(norm(p["interface"]["norm"], x)[0])
    assert relative_distance(found, expected) < 1e-5


def test_the_label_can_be_made_smaller(params, inputs):
    z, c_noise, image = inputs
    smaller = jax.jit(tiny(label_scale=0.1).apply)(params, z, c_noise, image)
    assert relative_distance(smaller, apply["released"](params, 0.1 * z, c_noise, image)) < 1e-6
    assert relative_distance(smaller, apply["released"](params, z, c_noise, image)) > 1e-2


def test_a_missing_image_is_zeros(params, inputs):
    z, c_noise, image = inputs
    missing = apply["released"](params, z, c_noise)
    zeros = apply["released"](params, z, c_noise, jnp.zeros_like(image))
    assert relative_distance(missing, zeros) < 1e-6


def test_may_be_vmapped_over_blocks(params, inputs):
    other = jax.tree.map(jnp.negative, params)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), params, other)
    together = jax.jit(jax.vmap(lambda p: network.apply(p, *inputs)))(stacked)
    for block, out in zip((params, other), together, strict=True):
        assert relative_distance(out, apply["released"](block, *inputs)) < 1e-5


def test_bfloat16_keeps_parameters_and_output_in_float32(params, inputs):
    network = tiny(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters(network))} == {jnp.dtype("float32")}

    @jax.jit
    def run(params: Any) -> Any:
        raw = network.apply(params, *inputs)
        return raw, network.logits(params, raw, inputs[1])

    out, read = run(params)
    assert out.dtype == read.dtype == jnp.float32
    assert 0 < relative_distance(out, apply["released"](params, *inputs)) < 0.05


@pytest.mark.parametrize("family", [ViT, PlainViT])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_size": 0}, r"model\.patch_size is 0; allowed: a positive integer"),
        ({"patch_size": 4}, r"model\.patch_size is 4; .* 4 and 6"),
        ({"depth": 0}, r"model\.depth is 0"),
        ({"width": 4}, r"model\.width is 4; allowed: at least 6"),
        ({"num_heads": 3}, r"model\.num_heads is 3; allowed: a divisor of the width 14"),
        ({"num_heads": 0}, r"model\.num_heads is 0"),
        ({"mlp_hidden": 0}, r"model\.mlp_hidden is 0"),
        ({"dropout": 1.0}, r"model\.dropout is 1\.0; allowed: a number in \[0, 1\)"),
        ({"gates": 2}, r"model\.gates is 2; allowed: 0 or 1"),
        ({"label_scale": 0.0}, r"model\.label_scale is 0\.0; allowed: a number above 0"),
        ({"layout": "mean"}, r"model\.layout is 'mean'; allowed: released, paper"),
        ({"dtype": "float16"}, r"model\.dtype is 'float16'; allowed: float32, bfloat16"),
    ],
)
def test_refuses_impossible_settings(family, settings, message):
    with pytest.raises(SettingError, match=message):
        tiny(family, **settings)
