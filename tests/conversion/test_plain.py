"""Blocks begin with an end-to-end trained network: at first they are that network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.checkpoint import Checkpoints
from dbjax.errors import SettingError
from dbjax.transfer import plan
from dbjax.workdir import claim
from tests.helpers import same, shaken

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def plain(tmp_path_factory, make, quick_compilation):
    """A run of each plain family, its weights far from where they are drawn."""
    found = {}
    for kind in ("vit", "ar"):
        setup = make(f"{kind}:end_to_end", optimizer__ema_decay=0.0)
        run = claim(tmp_path_factory.mktemp("runs") / kind, setup.config)
        shapes = jax.eval_shape(lambda s=setup: s.trainer.init(0).params)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        params = shaken(zeros, jax.random.key(1), 0.3)
        with Checkpoints(run / "checkpoints") as checkpoints:
            checkpoints.save({0: (jax.jit(setup.trainer.begin)(params), {"position": 0})})
        found[kind] = (run, setup, params)
    return found


def begin(plain, make, tmp_path, kind: str, **settings):
    """The new setup, its transfer and the weights that its blocks begin with."""
    new = make(f"{kind}:blocks", **settings)
    workdir = tmp_path / "new"
    transfer = plan(new, workdir, plain[kind][0], None)
    return new, transfer, transfer.begin(claim(workdir, new.config))


def near(a, b) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)


def test_one_block_of_a_vit_is_the_plain_one_where_no_label_is_told(plain, make, tmp_path):
    new, _, start = begin(
        plain, make, tmp_path, "vit", partition__num_blocks=1, model__gates=1, model__dropout=0.3
    )
    _, old, params = plain["vit"]
    images = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 4, 3)), jnp.float32)
    network, nothing = new.task.network, jnp.zeros((3, 24))
    level = jnp.array([-0.4, 0.1, 0.7])
    logits = network.logits(start[0], network.apply(start[0], nothing, level, images), level)
    near(logits, old.task.network.classify(params, images).logits)


def test_the_clean_stream_of_one_block_is_the_plain_language_model(plain, make, tmp_path):
    new, _, start = begin(plain, make, tmp_path, "ar", partition__num_blocks=1, model__gates=1)
    _, old, params = plain["ar"]
    tokens = jnp.array([[5, 1, 0, 7, 7, 3]])
    noisy = jnp.asarray(np.random.default_rng(2).normal(size=(1, 6, 24)), jnp.float32)
    network = new.task.network
    streams = network.apply(start[0], noisy, jnp.full((1, 1), 0.5), tokens, jnp.float32(-0.4))
    logits = network.interface(start[0]).read_out(streams.clean)
    near(logits, old.task.network.apply(params, tokens))


def test_every_block_gets_its_layers_and_what_they_lack_is_drawn(plain, make, tmp_path):
    new, transfer, start = begin(
        plain, make, tmp_path, "ar", partition__num_blocks=2, partition__layers=(1, 2),
        model__depth=3,
    )  # fmt: skip
    assert transfer.trained == (0, 1)
    lines = transfer.table().splitlines()
    assert "layers 0 of block 0; interface of block 0" in lines[1]
    assert "layers 1 of block 0, 2 new; interface of block 0" in lines[2]
    assert lines[3] == (
        "New in every block, as drawn from the seed: modulation, noise_level, noisy of interface; "
        "modulation of layers"
    )
    params = plain["ar"][2]
    for b in (0, 1):
        assert same(start[b]["interface"]["head"], params["interface"]["head"])
        assert same(start[b]["interface"]["noisy"], start[0]["interface"]["noisy"])
        assert not any(x.any() for x in jax.tree.leaves(start[b]["layers"]["modulation"]))
        first = jax.tree.map(lambda x, b=b: x[b], params["layers"]["mlp"])
        assert same(jax.tree.map(lambda x: x[0], start[b]["layers"]["mlp"]), first)
    drawn = jax.jit(lambda: new.trainer.init(1).params)()
    assert same(start[1]["interface"]["noisy"], drawn["interface"]["noisy"])
    last = (jax.tree.map(lambda x: x[1], tree["layers"]["mlp"]) for tree in (start[1], drawn))
    assert same(*last)


def test_a_label_that_stands_last_gets_a_position_of_its_own(plain, make, tmp_path):
    _, _, start = begin(
        plain, make, tmp_path, "vit", partition__num_blocks=1, model__layout="paper"
    )
    before, after = plain["vit"][2]["interface"], start[0]["interface"]
    assert same(after["class_token"], before["class_token"])
    assert np.array_equal(after["positions"][:, :-1], before["positions"])
    assert 0 < np.max(np.abs(after["positions"][:, -1])) < 0.2


@pytest.mark.parametrize(
    ("change", "blocks", "sentence"),
    [
        ({"placement__interface": "frozen"}, None, "'frozen'; allowed: 'owned' or 'shared' with "),
        (
            {"partition__context": "first", "placement__interface": "shared"},
            None,
            "partition.context is 'first'; allowed: 'own' with --from",
        ),
        ({"model__width": 16}, None, "model.width: 24 there, 16 here; allowed: the same family, m"),
        ({}, (1,), "--blocks does not name block 0"),
    ],
)
def test_what_would_not_be_the_network_is_refused(plain, make, tmp_path, change, blocks, sentence):
    new = make("ar:blocks", partition__num_blocks=2, **change)
    with pytest.raises(SettingError) as error:
        plan(new, tmp_path / "new", plain["ar"][0], blocks)
    assert sentence in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_plain_network_does_not_begin_with_blocks(plain, make, tmp_path):
    blocks = make("ar:blocks", partition__num_blocks=1)
    run = claim(tmp_path / "blocks", blocks.config)
    with pytest.raises(SettingError, match=r"family: 'ar_lm' there, 'plain_ar' here") as error:
        plan(make("ar:end_to_end"), tmp_path / "new", run, (0,))
    assert "such a model of" not in str(error.value)
