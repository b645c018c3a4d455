"""The published networks in NumPy, float64, and random weights in their layouts.

Written from the libraries' own code, and knowing nothing of ours: images are [channels, height,
width] and affine maps are kept transposed.
"""

from typing import Any

import numpy as np
from scipy.special import erf

WIDTH, HEADS, HIDDEN, DEPTH = 24, 2, 20, 2
EPSILON = {"timm_vit": 1e-6, "transformers_vit": 1e-12}
"""Of LayerNorms."""
Tensors = dict[str, np.ndarray]


def draw(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    """Weights of which none is where networks begin, so that every one of them matters.

    Embeddings are small, so that what normalisations add to a variance matters too.
    """
    rng = np.random.default_rng(0)
    drawn = {name: 0.3 * rng.normal(size=s).astype("f4") + 0.1 for name, s in shapes.items()}
    return {name: x * np.float32(0.01 if "embed" in name else 1) for name, x in drawn.items()}


def affine(sizes: dict[str, tuple[int, int]], *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Shapes of affine maps from (inputs, outputs)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in sizes.items():
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)
    return shapes


def norms(*names: str, bias: bool = True) -> dict[str, tuple[int, ...]]:
    kinds = ("weight", "bias") if bias else ("weight",)
    return {f"{name}.{kind}": (WIDTH,) for name in names for kind in kinds}


def linear(x: np.ndarray, t: Tensors, name: str) -> np.ndarray:
    return x @ t[f"{name}.weight"].T.astype("f8") + t.get(f"{name}.bias", 0.0)


def layer_norm(x: np.ndarray, epsilon: float) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def norm(x: np.ndarray, t: Tensors, name: str, epsilon: float) -> np.ndarray:
    return layer_norm(x, epsilon) * t[f"{name}.weight"] + t[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool = False) -> np.ndarray:
    """[heads, tokens, dim] each; returns [tokens, heads * dim]."""
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    out = softmax(scores) @ v
    return out.transpose(1, 0, 2).reshape(out.shape[1], -1)


def heads(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)


def patch_tokens(image: np.ndarray, t: Tensors, name: str) -> np.ndarray:
    """A convolution whose stride is its size, then the grid row by row."""
    kernel, (_, height, width) = t[f"{name}.weight"].astype("f8"), image.shape
    p = kernel.shape[-1]
    return np.stack([
        np.einsum("cpq,dcpq->d", image[:, r : r + p, c : c + p], kernel) + t[f"{name}.bias"]
        for r in range(0, height, p)
        for c in range(0, width, p)
    ])  # fmt: skip


# --- timm: VisionTransformer ----------------------------------------------------------------------


def timm_vit_tensors(tokens: int, channels: int, patch: int, classes: int) -> Tensors:
    shapes: dict[str, Any] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + tokens, WIDTH),
        "patch_embed.proj.weight": (WIDTH, channels, patch, patch),
        "patch_embed.proj.bias": (WIDTH,),
        **norms("norm"),
        **affine({"head": (WIDTH, classes)}),
    }
    for i in range(DEPTH):
        b = f"blocks.{i}."
        shapes |= norms(b + "norm1", b + "norm2")
        shapes |= affine({
            b + "attn.qkv": (WIDTH, 3 * WIDTH), b + "attn.proj": (WIDTH, WIDTH),
            b + "mlp.fc1": (WIDTH, HIDDEN), b + "mlp.fc2": (HIDDEN, WIDTH),
        })  # fmt: skip
    return draw(shapes)


def timm_vit(t: Tensors, image: np.ndarray) -> np.ndarray:
    eps = EPSILON["timm_vit"]
    x = np.concatenate([t["cls_token"][0], patch_tokens(image, t, "patch_embed.proj")])
    x = x + t["pos_embed"][0]
    for i in range(DEPTH):
        b = f"blocks.{i}."
        qkv = linear(norm(x, t, b + "norm1", eps), t, b + "attn.qkv")
        q, k, v = qkv.reshape(len(x), 3, HEADS, -1).transpose(1, 2, 0, 3)
        x = x + linear(attend(q, k, v), t, b + "attn.proj")
        hidden = gelu(linear(norm(x, t, b + "norm2", eps), t, b + "mlp.fc1"))
        x = x + linear(hidden, t, b + "mlp.fc2")
    return linear(norm(x, t, "norm", eps)[0], t, "head")


# --- transformers: ViTForImageClassification ------------------------------------------------------


def transformers_vit_tensors(tokens: int, channels: int, patch: int, classes: int) -> Tensors:
    e = "vit.embeddings."
    shapes: dict[str, Any] = {
        e + "cls_token": (1, 1, WIDTH),
        e + "position_embeddings": (1, 1 + tokens, WIDTH),
        e + "patch_embeddings.projection.weight": (WIDTH, channels, patch, patch),
        e + "patch_embeddings.projection.bias": (WIDTH,),
        **norms("vit.layernorm"),
        **affine({"classifier": (WIDTH, classes)}),
    }
    for i in range(DEPTH):
        b = f"vit.encoder.layer.{i}."
        a = b + "attention.attention."
        shapes |= norms(b + "layernorm_before", b + "layernorm_after")
        shapes |= affine({
            a + "query": (WIDTH, WIDTH), a + "key": (WIDTH, WIDTH), a + "value": (WIDTH, WIDTH),
            b + "attention.output.dense": (WIDTH, WIDTH),
            b + "intermediate.dense": (WIDTH, HIDDEN), b + "output.dense": (HIDDEN, WIDTH),
        })  # fmt: skip
    return draw(shapes)


def transformers_vit(t: Tensors, image: np.ndarray) -> np.ndarray:
    e, eps = "vit.embeddings.", EPSILON["transformers_vit"]
    patches = patch_tokens(image, t, e + "patch_embeddings.projection")
    x = np.concatenate([t[e + "cls_token"][0], patches]) + t[e + "position_embeddings"][0]
    for i in range(DEPTH):
        b = f"vit.encoder.layer.{i}."
        y = norm(x, t, b + "layernorm_before", eps)
        q, k, v = (
            heads(linear(y, t, f"{b}attention.attention.{name}"))
            for name in ("query", "key", "value")
        )
        x = x + linear(attend(q, k, v), t, b + "attention.output.dense")
        y = norm(x, t, b + "layernorm_after", eps)
        x = x + linear(gelu(linear(y, t, b + "intermediate.dense")), t, b + "output.dense")
    return linear(norm(x, t, "vit.layernorm", eps)[0], t, "classifier")


# --- facebookresearch/DiT -------------------------------------------------------------------------


def dit_tensors(grid: int, channels: int, patch: int, classes: int, outputs: int) -> Tensors:
    """`outputs` is 1, or 2 for a network that learned the variance."""
    shapes: dict[str, Any] = {
        "x_embedder.proj.weight": (WIDTH, channels, patch, patch),
        "x_embedder.proj.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (classes + 1, WIDTH),
        **affine({
            "t_embedder.mlp.0": (256, WIDTH), "t_embedder.mlp.2": (WIDTH, WIDTH),
            "final_layer.linear": (WIDTH, patch * patch * outputs * channels),
            "final_layer.adaLN_modulation.1": (WIDTH, 2 * WIDTH),
        }),
    }  # fmt: skip
    for i in range(DEPTH):
        b = f"blocks.{i}."
        shapes |= affine({
            b + "attn.qkv": (WIDTH, 3 * WIDTH), b + "attn.proj": (WIDTH, WIDTH),
            b + "mlp.fc1": (WIDTH, HIDDEN), b + "mlp.fc2": (HIDDEN, WIDTH),
            b + "adaLN_modulation.1": (WIDTH, 6 * WIDTH),
        })  # fmt: skip
    return draw(shapes) | {"pos_embed": dit_positions(grid)}


def dit_positions(grid: int) -> np.ndarray:
    """`get_2d_sincos_pos_embed`: columns first, then rows, each as sines and cosines."""
    omega = 1 / 10000 ** (np.arange(WIDTH // 4) / (WIDTH / 4))
    rows = []
    for r in range(grid):
        for c in range(grid):
            parts = [f(position * omega) for position in (c, r) for f in (np.sin, np.cos)]
            rows.append(np.concatenate(parts))
    return np.stack(rows)[None].astype("f4")


def dit(t: Tensors, image: np.ndarray, time: float, label: int) -> np.ndarray:
    """The network's prediction, [channels, height, width], without a learned variance."""
    channels, size, _ = image.shape
    patch = t["x_embedder.proj.weight"].shape[-1]
    x = patch_tokens(image, t, "x_embedder.proj") + t["pos_embed"][0]
    angles = time * np.exp(-np.log(10000) * np.arange(128) / 128)
    embedded = np.concatenate([np.cos(angles), np.sin(angles)])
    c = linear(silu(linear(embedded, t, "t_embedder.mlp.0")), t, "t_embedder.mlp.2")
    c = c + t["y_embedder.embedding_table.weight"][label]
    for i in range(DEPTH):
        b = f"blocks.{i}."
        vectors = linear(silu(c), t, b + "adaLN_modulation.1")
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = np.split(vectors, 6)
        qkv = linear(layer_norm(x, 1e-6) * (1 + scale_a) + shift_a, t, b + "attn.qkv")
        q, k, v = qkv.reshape(len(x), 3, HEADS, -1).transpose(1, 2, 0, 3)
        x = x + gate_a * linear(attend(q, k, v), t, b + "attn.proj")
        y = layer_norm(x, 1e-6) * (1 + scale_m) + shift_m
        x = x + gate_m * linear(tanh_gelu(linear(y, t, b + "mlp.fc1")), t, b + "mlp.fc2")
    shift, scale = np.split(linear(silu(c), t, "final_layer.adaLN_modulation.1"), 2)
    x = linear(layer_norm(x, 1e-6) * (1 + scale) + shift, t, "final_layer.linear")
    grid = size // patch
    out = x.reshape(grid, grid, patch, patch, -1).transpose(4, 0, 2, 1, 3)
    return out.reshape(-1, size, size)[:channels]


# --- transformers: LlamaForCausalLM ---------------------------------------------------------------


def llama_tensors(rows: int, *, tied: bool = False) -> Tensors:
    shapes: dict[str, Any] = {
        "model.embed_tokens.weight": (rows, WIDTH),
        **norms("model.norm", bias=False),
        **({} if tied else {"lm_head.weight": (rows, WIDTH)}),
    }
    for i in range(DEPTH):
        b = f"model.layers.{i}."
        shapes |= norms(b + "input_layernorm", b + "post_attention_layernorm", bias=False)
        shapes |= affine({
            **{f"{b}self_attn.{x}_proj": (WIDTH, WIDTH) for x in "qkvo"},
            b + "mlp.gate_proj": (WIDTH, HIDDEN), b + "mlp.up_proj": (WIDTH, HIDDEN),
            b + "mlp.down_proj": (HIDDEN, WIDTH),
        }, bias=False)  # fmt: skip
    return draw(shapes)


def llama(t: Tensors, tokens: list[int]) -> np.ndarray:
    """Logits of what follows each token, [tokens, rows]."""
    x = t["model.embed_tokens.weight"][tokens].astype("f8")
    dim = WIDTH // HEADS
    frequencies = 1.0 / 10000 ** (np.arange(0, dim, 2) / dim)
    angles = np.outer(np.arange(len(tokens)), frequencies)
    cos, sin = (np.concatenate([f(angles), f(angles)], -1) for f in (np.cos, np.sin))

    def turn(x: np.ndarray) -> np.ndarray:
        half = np.concatenate([-x[..., dim // 2 :], x[..., : dim // 2]], -1)
        return x * cos + half * sin

    def rms(x: np.ndarray, name: str) -> np.ndarray:
        return t[f"{name}.weight"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    for i in range(DEPTH):
        b = f"model.layers.{i}."
        y = rms(x, b + "input_layernorm")
        q, k, v = (heads(linear(y, t, f"{b}self_attn.{name}_proj")) for name in "qkv")
        x = x + linear(attend(turn(q), turn(k), v, causal=True), t, b + "self_attn.o_proj")
        y = rms(x, b + "post_attention_layernorm")
        gated = silu(linear(y, t, b + "mlp.gate_proj")) * linear(y, t, b + "mlp.up_proj")
        x = x + linear(gated, t, b + "mlp.down_proj")
    head = t.get("lm_head.weight", t["model.embed_tokens.weight"])
    return rms(x, "model.norm") @ head.T
