"""Where the weights of a network are in the files of other libraries.

A layout is stated once, parameter by parameter, and read in both directions. What each says: order
of query, key and value, of gate and value, of the modulation's vectors and of a patch's pixels,
kinds of GELU, and what normalisations add. The tests hold them against forward passes stated anew
in NumPy; they were never read with timm, transformers or PyTorch themselves.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dbjax.errors import SettingError, require
from dbjax.nn.embedding import position_table

Shapes = Mapping[str, tuple[int, ...]]


class Subject(NamedTuple):
    """What is converted.

    Attributes:
        model: the `model` section of its config.
        info: the facts of its data.
        shapes: of the tensors of a file; None to write one.
        beginning: the token that begins a text in a file without a row of its own for that.
    """

    model: Any
    info: Any
    shapes: Shapes | None = None
    beginning: int | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter of ours, and the tensors of a layout that it is made of.

    Attributes:
        ours: its path, "interface/norm/scale" or, in a layer, "layers/mlp/expand/kernel".
        theirs: their names, with {i} for the index of a layer.
        join: from the tensors to the parameter.
        split: from the parameter to as many tensors as `theirs` names.
        note: what is not plain about it, for people.
    """

    ours: str
    theirs: tuple[str, ...]
    join: Callable[[Sequence[np.ndarray]], np.ndarray]
    split: Callable[[np.ndarray], Sequence[np.ndarray]]
    note: str = ""

    @property
    def in_layers(self) -> bool:
        return self.ours.startswith("layers/")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of one library's implementation of one network.

    Attributes:
        family: whose networks have this layout.
        layer: what the names of tensors of layer {i} begin with.
        entries: every parameter of ours; may depend on the shapes in the file.
        settings: what `config.json` beside the file has to say, where it says anything of it.
        described: what `config.json` tells besides when we write one.
        model: settings of our model that only have this value in the layout.
        constants: tensors that are kept in the file and not trained.
        unused: tensors that may be in the file and do not matter, and why.
        head: the path of what depends on the classes, and can be drawn anew; empty for none.
    """

    family: str
    layer: str
    entries: Callable[[Subject], list[Entry]]
    settings: Callable[[Subject], dict[str, Any]] = lambda subject: {}
    described: Callable[[Subject], dict[str, Any]] = lambda subject: {}
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    constants: Callable[[Subject], dict[str, np.ndarray]] = lambda subject: {}
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    head: str = ""


# --- kinds of parameters --------------------------------------------------------------------------


def _as_it_is(ours: str, theirs: str) -> Entry:
    return Entry(ours, (theirs,), lambda xs: xs[0], lambda x: [x])


def _linear(ours: str, *theirs: str, bias: bool = True) -> list[Entry]:
    """An affine map, which PyTorch keeps transposed, or several with one input fused into one."""
    count = len(theirs)
    kernel = Entry(
        f"{ours}/kernel",
        tuple(f"{name}.weight" for name in theirs),
        lambda xs: np.concatenate(xs).T,
        lambda x: np.split(x.T, count),
    )
    vector = Entry(
        f"{ours}/bias", tuple(f"{name}.bias" for name in theirs), np.concatenate,
        lambda x: np.split(x, count),
    )  # fmt: skip
    return [kernel, vector] if bias else [kernel]


def _norm(ours: str, theirs: str, *, bias: bool = True) -> list[Entry]:
    scale = _as_it_is(f"{ours}/scale", f"{theirs}.weight")
    return [scale, _as_it_is(f"{ours}/bias", f"{theirs}.bias")] if bias else [scale]


def _patches(ours: str, theirs: str, patch: int) -> list[Entry]:
    """An affine map of patches, for PyTorch a convolution [out, channels, rows, columns].

    Ours reads the values of a patch by rows, columns, channels.
    """
    kernel = Entry(
        f"{ours}/kernel",
        (f"{theirs}.weight",),
        lambda xs: xs[0].transpose(2, 3, 1, 0).reshape(-1, len(xs[0])),
        lambda x: [x.reshape(patch, patch, -1, x.shape[-1]).transpose(3, 2, 0, 1)],
    )
    return [kernel, _as_it_is(f"{ours}/bias", f"{theirs}.bias")]


# --- vision transformers --------------------------------------------------------------------------


def _timm_vit(subject: Subject) -> list[Entry]:
    layer = "blocks.{i}."
    return [
        *_patches("interface/patches", "patch_embed.proj", subject.model.patch_size),
        _as_it_is("interface/class_token", "cls_token"),
        _as_it_is("interface/positions", "pos_embed"),
        *_norm("interface/norm", "norm"),
        *_linear("interface/classifier", "head"),
        *_norm("layers/attention_norm", layer + "norm1"),
        *_linear("layers/attention/qkv", layer + "attn.qkv"),
        *_linear("layers/attention/out", layer + "attn.proj"),
        *_norm("layers/mlp_norm", layer + "norm2"),
        *_linear("layers/mlp/expand", layer + "mlp.fc1"),
        *_linear("layers/mlp/contract", layer + "mlp.fc2"),
    ]


def _transformers_vit(subject: Subject) -> list[Entry]:
    embeddings, layer = "vit.embeddings.", "vit.encoder.layer.{i}."
    attention = layer + "attention.attention."
    patches = embeddings + "patch_embeddings.projection"
    return [
        *_patches("interface/patches", patches, subject.model.patch_size),
        _as_it_is("interface/class_token", embeddings + "cls_token"),
        _as_it_is("interface/positions", embeddings + "position_embeddings"),
        *_norm("interface/norm", "vit.layernorm"),
        *_linear("interface/classifier", "classifier"),
        *_norm("layers/attention_norm", layer + "layernorm_before"),
        *_linear("layers/attention/qkv", *(attention + x for x in ("query", "key", "value"))),
        *_linear("layers/attention/out", layer + "attention.output.dense"),
        *_norm("layers/mlp_norm", layer + "layernorm_after"),
        *_linear("layers/mlp/expand", layer + "intermediate.dense"),
        *_linear("layers/mlp/contract", layer + "output.dense"),
    ]


def _transformers_vit_settings(subject: Subject) -> dict[str, Any]:
    model, (height, width, channels) = subject.model, subject.info.image_shape
    return {
        "model_type": "vit",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.mlp_hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": model.norm_epsilon,
        "image_size": height if height == width else [height, width],
        "patch_size": model.patch_size,
        "num_channels": channels,
        "qkv_bias": True,
    }


def _transformers_vit_described(subject: Subject) -> dict[str, Any]:
    classes = {str(i): f"LABEL_{i}" for i in range(subject.info.num_classes)}
    return {"architectures": ["ViTForImageClassification"], "id2label": classes}


# --- DiT ------------------------------------------------------------------------------------------


def _dit(subject: Subject) -> list[Entry]:
    layer = "blocks.{i}."
    return [
        *_patches("interface/patches", "x_embedder.proj", subject.model.patch_size),
        *_linear("interface/noise_level/expand", "t_embedder.mlp.0"),
        *_linear("interface/noise_level/out", "t_embedder.mlp.2"),
        _as_it_is("interface/label/embedding", "y_embedder.embedding_table.weight"),
        *_linear("interface/modulation/linear", "final_layer.adaLN_modulation.1"),
        *_dit_output(subject),
        *_linear("layers/modulation/linear", layer + "adaLN_modulation.1"),
        *_linear("layers/attention/qkv", layer + "attn.qkv"),
        *_linear("layers/attention/out", layer + "attn.proj"),
        *_linear("layers/mlp/expand", layer + "mlp.fc1"),
        *_linear("layers/mlp/contract", layer + "mlp.fc2"),
    ]


def _dit_output(subject: Subject) -> list[Entry]:
    """The last map, whose outputs are pixels by rows, columns, channels.

    Networks that learned the variance too have it in as many channels more.
    """
    plain = _linear("interface/out", "final_layer.linear")
    pixels, channels = subject.model.patch_size**2, subject.info.image_shape[-1]
    found = (subject.shapes or {}).get("final_layer.linear.bias")
    if found != (2 * pixels * channels,):
        return plain

    def mean(x: np.ndarray) -> np.ndarray:
        grid = x.reshape(pixels, 2, channels, *x.shape[1:])
        return grid[:, 0].reshape(pixels * channels, *x.shape[1:])

    def both(x: np.ndarray) -> np.ndarray:
        grid = x.reshape(pixels, 1, channels, *x.shape[1:])
        padded = np.concatenate([grid, np.zeros_like(grid)], axis=1)
        return padded.reshape(2 * pixels * channels, *x.shape[1:])

    def halved(entry: Entry) -> Entry:
        return dataclasses.replace(
            entry,
            join=lambda xs: entry.join([mean(x) for x in xs]),
            split=lambda x: [both(part) for part in entry.split(x)],
            note="without the learned variance",
        )

    return [halved(entry) for entry in plain]


def _dit_constants(subject: Subject) -> dict[str, np.ndarray]:
    (height, width, _), patch = subject.info.image_shape, subject.model.patch_size
    features = subject.model.dimensions.width
    return {"pos_embed": position_table(height // patch, width // patch, features)[None]}


# --- decoders -------------------------------------------------------------------------------------


def _llama(subject: Subject) -> list[Entry]:
    layer, attention = "model.layers.{i}.", "model.layers.{i}.self_attn."
    query, key = (f"{attention}{x}_proj.weight".format(i=0) for x in "qk")
    if subject.shapes is not None and subject.shapes.get(query) != subject.shapes.get(key):
        raise SettingError(
            f"{key} has shape {subject.shapes.get(key)} and {query} {subject.shapes.get(query)}, "
            "which is attention with grouped queries; allowed: as many heads for keys and values "
            "as for queries"
        )
    return [
        *_llama_vocabulary(subject),
        *_norm("interface/norm", "model.norm", bias=False),
        *_norm("layers/attention_norm", layer + "input_layernorm", bias=False),
        *_linear(
            "layers/attention/qkv",
            *(f"{attention}{x}_proj" for x in "qkv"),
            bias=False,
        ),
        *_linear("layers/attention/out", attention + "o_proj", bias=False),
        *_norm("layers/mlp_norm", layer + "post_attention_layernorm", bias=False),
        *_linear("layers/mlp/expand", layer + "mlp.gate_proj", layer + "mlp.up_proj", bias=False),
        *_linear("layers/mlp/contract", layer + "mlp.down_proj", bias=False),
    ]


def _llama_vocabulary(subject: Subject) -> list[Entry]:
    """Embeddings and head.

    Ours has a row more than tokens, the last, for the beginning of a text, and no logit for it.
    """
    size, shapes = subject.info.vocabulary, subject.shapes
    table, head = "model.embed_tokens.weight", "lm_head.weight"
    embedding = _as_it_is("interface/tokens/embedding", table)
    if shapes is None or shapes.get(table, (0,))[0] != size:
        logits = Entry(
            "interface/head/kernel",
            (head,),
            lambda xs: xs[0][:size].T,
            lambda x: [np.concatenate([x.T, np.zeros_like(x.T[:1])])],
            "the row of the beginning is 0",
        )
    else:
        begin = subject.beginning
        if begin is None:
            raise SettingError(
                f"{table} has {size} rows, one for each token, and nothing says which of them "
                "begins a text; allowed: --bos=TOKEN, a number below that"
            )
        require(0 <= begin < size, "--bos", begin, f"a token from 0 to {size - 1}")
        embedding = dataclasses.replace(
            embedding,
            join=lambda xs: np.concatenate([xs[0], xs[0][begin][None]]),
            split=lambda x: [x[:-1]],
            note=f"the beginning of a text is token {begin}",
        )
        (logits,) = _linear("interface/head", "lm_head", bias=False)
    if shapes is not None and head not in shapes:
        logits = dataclasses.replace(logits, theirs=(table,), note="a copy, no longer tied")
    return [embedding, logits]


def _llama_settings(subject: Subject) -> dict[str, Any]:
    model = subject.model
    return {
        "model_type": "llama",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_heads,
        "head_dim": model.width // model.num_heads,
        "intermediate_size": model.mlp_hidden,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
    }


def _llama_described(subject: Subject) -> dict[str, Any]:
    size = subject.info.vocabulary
    return {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": size + 1,
        "bos_token_id": size,
        "max_position_embeddings": subject.info.length,
        "tie_word_embeddings": False,
    }


LAYOUTS = {
    "timm_vit": Layout(
        "plain_vit",
        "blocks.{i}.",
        _timm_vit,
        model={"norm_epsilon": 1e-6},
        head="interface/classifier/",
    ),
    "transformers_vit": Layout(
        "plain_vit",
        "vit.encoder.layer.{i}.",
        _transformers_vit,
        _transformers_vit_settings,
        _transformers_vit_described,
        unused={"vit.pooler.": "not used to classify"},
        head="interface/classifier/",
    ),
    "dit": Layout("dit", "blocks.{i}.", _dit, constants=_dit_constants),
    "llama": Layout(
        "plain_ar",
        "model.layers.{i}.",
        _llama,
        _llama_settings,
        _llama_described,
        unused={"rotary_emb.inv_freq": "computed"},
    ),
}
"""By the names that `experiments.convert` takes."""
