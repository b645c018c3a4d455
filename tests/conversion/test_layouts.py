"""Converted networks compute what the published ones do, and written ones are read back exactly."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dbjax.checkpoint import Checkpoints
from dbjax.conversion.convert import export, flatten, plan_conversion
from dbjax.conversion.layouts import LAYOUTS
from dbjax.conversion.tensors import INDEX
from dbjax.errors import SettingError
from dbjax.workdir import claim
from tests.conversion import published
from tests.helpers import same, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID, PATCH, CHANNELS, CLASSES = 2, 2, 3, 5


def vit_tensors(layout: str, **changes: int) -> dict:
    sizes = {"tokens": GRID**2, "channels": CHANNELS, "patch": PATCH, "classes": CLASSES}
    return getattr(published, f"{layout}_tensors")(**sizes | changes)


def plan(tmp_path, setup, layout: str, tensors: dict, **options):
    save_file(tensors, tmp_path / "model.safetensors")
    return plan_conversion(setup, tmp_path / "model.safetensors", layout, **options)


def images() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, 4, 4, CHANNELS)).astype("f4")


def near(ours, theirs) -> None:
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.max(np.abs(np.asarray(ours) - theirs)) < 1e-5 * max(1, np.max(np.abs(theirs)))


@pytest.mark.parametrize("layout", published.EPSILON)
def test_a_vit_is_the_published_one(tmp_path, make, layout):
    setup = make("vit:end_to_end", model__norm_epsilon=published.EPSILON[layout])
    tensors = vit_tensors(layout)
    params = plan(tmp_path, setup, layout, tensors).params(0)
    ours = setup.task.network.classify(params, jnp.asarray(images())).logits
    forward = getattr(published, layout)
    near(ours, [forward(tensors, image.transpose(2, 0, 1).astype("f8")) for image in images()])


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_dit_in_blocks_is_the_published_one(tmp_path, make, outputs):
    setup = make("dit:blocks", partition__num_blocks=2)
    tensors = published.dit_tensors(GRID, CHANNELS, PATCH, CLASSES, outputs)
    conversion = plan(tmp_path, setup, "dit", tensors)
    assert ("variance" in conversion.table()) == (outputs == 2)
    blocks = [conversion.params(b) for b in (0, 1)]
    assert same(blocks[0]["interface"], blocks[1]["interface"])
    layers = jax.tree.map(lambda *xs: np.concatenate(xs), *(block["layers"] for block in blocks))
    whole = {"interface": blocks[0]["interface"], "layers": layers}
    times, labels = jnp.array([0.3, 7.0, 2.5]), jnp.array([0, 3, CLASSES])
    ours = setup.task.network.apply(whole, jnp.asarray(images()), times, labels)
    theirs = [
        published.dit(tensors, image.transpose(2, 0, 1).astype("f8"), t, y).transpose(1, 2, 0)
        for image, t, y in zip(images(), times.tolist(), labels.tolist(), strict=True)
    ]
    near(ours, theirs)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("more", [0, 1])
def test_a_decoder_is_the_published_one(tmp_path, make, tied, more):
    setup = make("ar:end_to_end")
    size = setup.dataset.info.vocabulary
    tensors = published.llama_tensors(size + more, tied=tied)
    beginning = size if more else 2
    conversion = plan(tmp_path, setup, "llama", tensors, beginning=None if more else 2)
    tokens = [5, 1, 0, 7, 7, 3]
    ours = setup.task.network.apply(conversion.params(0), jnp.asarray([tokens]))[0]
    near(ours, published.llama(tensors, [beginning, *tokens[:-1]])[:, :size])


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_files_of_other_precision_are_read(tmp_path, make, kind):
    tensors = {name: x.astype(kind) for name, x in vit_tensors("transformers_vit").items()}
    params = plan(tmp_path, make("vit:end_to_end"), "transformers_vit", tensors).params(0)
    expected = tensors["vit.layernorm.bias"].astype("f4")
    assert np.array_equal(params["interface"]["norm"]["bias"], expected)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("f4")}


def test_shards_are_one_network(tmp_path, make):
    setup, tensors = make("vit:end_to_end"), vit_tensors("transformers_vit")
    whole = plan(tmp_path, setup, "transformers_vit", tensors).params(0)
    folder = write_shards(tmp_path / "shards", tensors)
    for path in (folder, folder / INDEX):
        assert same(plan_conversion(setup, path, "transformers_vit").params(0), whole)


def write_shards(folder, tensors):
    folder.mkdir()
    names = sorted(tensors)
    shards = {f"part-{i}.safetensors": names[i::2] for i in range(2)}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    listed = {name: file for file, own in shards.items() for name in own}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return folder


# --- there and back -------------------------------------------------------------------------------

RUNS = {
    "timm_vit": ("vit:end_to_end", {"model__norm_epsilon": 1e-6}),
    "transformers_vit": ("vit:end_to_end", {}),
    "dit": ("dit:end_to_end", {}),
    "llama": ("ar:end_to_end", {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_comes_back_as_it_was(tmp_path, make, layout):
    name, more = RUNS[layout]
    setup = make(name, optimizer__ema_decay=0.0, **more)
    run = claim(tmp_path / "run", setup.config)
    # Not jitted: a fresh draw would take longer to compile than all else here.
    params = jax.eval_shape(lambda: setup.trainer.init(0).params)
    params = shaken(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params), jax.random.key(1))
    with Checkpoints(run / "checkpoints") as checkpoints:
        checkpoints.save({0: (jax.jit(setup.trainer.begin)(params), {"position": 0})})
    export(run, layout, tmp_path / "out")
    conversion = plan_conversion(setup, tmp_path / "out", layout)
    back = conversion.params(0)
    assert same(back, params)
    taken = {entry.ours for entry in conversion.entries}
    assert taken == set(flatten(params)), "nothing of the network may be left behind"
    assert "new, drawn" not in conversion.table()


def test_the_written_head_of_a_decoder_has_no_opinion_on_the_beginning(tmp_path, make):
    name, _ = RUNS["llama"]
    setup = make(name, optimizer__ema_decay=0.0)
    run = claim(tmp_path / "run", setup.config)
    size = setup.dataset.info.vocabulary
    with Checkpoints(run / "checkpoints") as checkpoints:
        tensors = published.llama_tensors(size + 1)
        params = plan(tmp_path, setup, "llama", tensors).params(0)
        checkpoints.save({0: (jax.jit(setup.trainer.begin)(params), {"position": 0})})
    export(run, "llama", tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert not written.pop("lm_head.weight")[-1].any()
    assert all(np.array_equal(x, tensors[name]) for name, x in written.items())
    told = json.loads((tmp_path / "out" / "config.json").read_text())
    assert told["vocab_size"] == size + 1 and told["bos_token_id"] == size


# --- refusals -------------------------------------------------------------------------------------


def refusal(*arguments, **options) -> str:
    with pytest.raises(SettingError) as error:
        plan(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"norm.weight": None}, "has no norm.weight; allowed: all tensors of layout 'timm_vit'"),
        ({"blocks.1.ls1.gamma": (24,)}, "has blocks.1.ls1.gamma, for which 'plain_vit' has no"),
        ({"blocks.2.norm1.bias": (24,)}, "depth of the config's model is 2; allowed: 3, the layer"),
        ({"pos_embed": (1, 9, 24)}, "shape of pos_embed is (1, 9, 24); allowed: (1, 5, 24), by th"),
        ({"head.weight": (7, 24)}, "shape of head.weight is (7, 24); allowed: (5, 24)"),
    ],
)
def test_a_network_of_another_shape_is_refused(tmp_path, make, change, sentence):
    tensors = vit_tensors("timm_vit")
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape:
            tensors[name] = np.ones(shape, "f4")
    setup = make("vit:end_to_end", model__norm_epsilon=1e-6)
    assert sentence in refusal(tmp_path, setup, "timm_vit", tensors)


def test_a_layout_goes_with_one_family_and_its_fixed_settings(tmp_path, make):
    tensors = vit_tensors("timm_vit")
    plain, blocks = make("vit:end_to_end"), make("vit:blocks", partition__num_blocks=2)
    assert "--layout is 'gpt2'; allowed: timm_vit," in refusal(tmp_path, plain, "gpt2", tensors)
    error = refusal(tmp_path, blocks, "timm_vit", tensors)
    assert error == "family is 'vit'; allowed: 'plain_vit' with layout 'timm_vit'"
    error = refusal(tmp_path, plain, "transformers_vit", tensors)
    assert "no tensors whose names begin with 'vit.encoder.layer.0.'; allowed: a file of" in error
    error = refusal(tmp_path, plain, "timm_vit", tensors)
    assert error == "model.norm_epsilon is 1e-12; allowed: 1e-06 with layout 'timm_vit'"


def test_grouped_queries_are_refused(tmp_path, make):
    setup = make("ar:end_to_end")
    tensors = published.llama_tensors(setup.dataset.info.vocabulary + 1)
    tensors["model.layers.0.self_attn.k_proj.weight"] = np.ones((12, 24), "f4")
    error = refusal(tmp_path, setup, "llama", tensors)
    assert "grouped queries" in error and "as many heads for keys and values" in error


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"num_attention_heads": 4}, "num_attention_heads in the config.json of"),
        ({"rms_norm_eps": 1e-6}, "is 1e-06; allowed: 1e-05"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_theta in the config.json of"),
        ({"model_type": "mistral"}, "is 'mistral'; allowed: 'llama'"),
    ],
)
def test_what_weights_do_not_show_is_read_beside_them(tmp_path, make, told, sentence):
    setup = make("ar:end_to_end")
    tensors = published.llama_tensors(setup.dataset.info.vocabulary + 1)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **told}))
    assert sentence in refusal(tmp_path, setup, "llama", tensors)


def test_the_token_that_begins_a_text_is_named_or_found_beside_the_weights(tmp_path, make):
    setup = make("ar:end_to_end")
    tensors = published.llama_tensors(setup.dataset.info.vocabulary)
    assert "allowed: --bos=TOKEN" in refusal(tmp_path, setup, "llama", tensors)
    assert "--bos is 1000" in refusal(tmp_path, setup, "llama", tensors, beginning=1000)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": [1, 2]}))
    assert "allowed: --bos=TOKEN" in refusal(tmp_path, setup, "llama", tensors)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 1, "head_dim": None}))
    table = plan(tmp_path, setup, "llama", tensors).params(0)["interface"]["tokens"]["embedding"]
    assert np.array_equal(table[-1], table[1])


def test_a_dit_with_other_positions_is_refused(tmp_path, make):
    tensors = published.dit_tensors(GRID, CHANNELS, PATCH, CLASSES, 1)
    tensors["pos_embed"] = np.flip(tensors["pos_embed"], axis=1).copy()
    error = refusal(tmp_path, make("dit:end_to_end"), "dit", tensors)
    assert "largest difference of pos_embed to ours" in error


def test_unused_tensors_are_left_out_and_a_head_can_be_drawn(tmp_path, make):
    tensors = vit_tensors("transformers_vit", classes=7)
    tensors["vit.pooler.dense.weight"] = np.ones((24, 24), "f4")
    setup = make("vit:end_to_end")
    conversion = plan(tmp_path, setup, "transformers_vit", tensors, new_head=True)
    table = conversion.table()
    assert table.count("new, drawn from the seed") == 2
    assert table.count("left out: for other classes") == 2
    assert table.count("left out: not used to classify") == 1
    params = conversion.params(0)
    fresh = jax.jit(lambda: setup.trainer.init(0).params)()
    assert same(params["interface"]["classifier"], fresh["interface"]["classifier"])
    expected = tensors["vit.layernorm.weight"]
    assert np.array_equal(params["interface"]["norm"]["scale"], expected)
    error = refusal(tmp_path, make("dit:end_to_end"), "dit", {}, new_head=True)
    assert error == "--layout is 'dit'; allowed: a classifier's, with --new_head"


def test_files_that_cannot_be_used_are_refused(tmp_path, make):
    setup = make("vit:end_to_end")

    def refused(path) -> str:
        with pytest.raises(SettingError) as error:
            plan_conversion(setup, path, "transformers_vit").params(0)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "cannot be read; allowed: a file of safetensors" in refused(tmp_path / "gone")
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04 and more than eight bytes")
    assert "is not of the format safetensors" in refused(tmp_path / "weights.pt")
    (tmp_path / "empty").mkdir()
    assert f"one with model.safetensors or {INDEX}" in refused(tmp_path / "empty")
    tensors = vit_tensors("transformers_vit")
    folder = write_shards(tmp_path / "shards", tensors)
    (folder / "part-0.safetensors").unlink()
    assert "part-0.safetensors cannot be read" in refused(folder)
    save_file({"vit.layernorm.bias": np.ones(3, "f4")}, folder / "part-0.safetensors")
    assert "which model.safetensors.index.json says is there" in refused(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    assert "lists no shards" in refused(folder)
    tensors["vit.layernorm.bias"][3] = np.nan
    save_file(tensors, tmp_path / "model.safetensors")
    assert "vit.layernorm.bias" in refused(tmp_path) and "finite weights" in refused(tmp_path)
    save_file({"a": np.ones(3, "i4")}, tmp_path / "model.safetensors")
    assert "is 'I32'; allowed: F64, F32, F16, BF16" in refused(tmp_path)
