"""From a run to a file and back: converted, trained further end to end and by blocks."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from dbjax import session
from dbjax.build import build
from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.monitor import read_journal
from dbjax.workdir import claim
from experiments import convert, train
from tests.helpers import same

pytestmark = pytest.mark.usefixtures("quick_compilation")

LAYOUT = "--layout=transformers_vit"
PLAIN = "--config=configs/vit_digits.py:end_to_end"
BLOCKS = "--config=configs/vit_digits.py"
SMALL = [
    *(f"--config.model.{setting}" for setting in ("width=8", "num_heads=2", "mlp_hidden=8")),
    "--config.model.depth=2",
    "--config.model.patch_size=4",
    "--config.training.steps=2",
    "--config.training.log_every=1",
    "--config.placement.steps_per_dispatch=1",
    "--config.data.batch_size=4",
]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A run of two steps."""
    run = tmp_path_factory.mktemp("runs") / "pretrained"
    train.main([PLAIN, f"--workdir={run}", "--quiet", *SMALL])
    return run


@pytest.fixture(scope="module")
def exported(pretrained) -> Path:
    folder = pretrained.with_name("exported")
    convert.main([f"--export={folder}", LAYOUT, f"--workdir={pretrained}"])
    return folder


@pytest.fixture(scope="module")
def converted(exported) -> Path:
    run = exported.with_name("converted")
    convert.main([str(exported), LAYOUT, PLAIN, f"--workdir={run}", *SMALL])
    return run


def weights(run: Path) -> dict:
    return dict(session.load(build(load_config(run / "config.json")).trainer, run).blocks)


def refusal(*arguments: object) -> str:
    with pytest.raises(SettingError) as error:
        convert.main([*map(str, arguments)])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_comes_back_is_a_run_at_step_0_with_the_same_weights(pretrained, exported, converted):
    assert sorted(os.listdir(exported)) == ["config.json", "model.safetensors"]
    assert json.loads((exported / "config.json").read_text())["num_attention_heads"] == 2
    assert same(weights(converted), weights(pretrained))
    setup = build(load_config(converted / "config.json"))
    assert session.load(setup.trainer, converted).steps == {0: 0}
    source = json.loads((converted / "converted.json").read_text())["from"]
    assert source == str(exported)


def test_a_converted_run_is_trained_further_by_blocks(converted, tmp_path, capsys):
    run = tmp_path / "run"
    train.main([
        BLOCKS, f"--workdir={run}", f"--from={converted}", "--quiet", *SMALL,
        "--config.partition.num_blocks=2", "--config.model.gates=1",
        "--config.optimizer.warmup_steps=1000000",
    ])  # fmt: skip
    assert "New in every block, as drawn from the seed: " in capsys.readouterr().out
    rows = read_journal(run)
    assert [(row["block"], row["step"]) for row in rows] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert all(np.isfinite(row["loss"]) for row in rows)
    (plain,), blocks = weights(converted).values(), weights(run)
    for b in (0, 1):
        for name in ("attention", "mlp"):
            expected = jax.tree.map(lambda x, b=b: x[b : b + 1], plain["layers"][name])
            gaps = jax.tree.map(
                lambda x, y: np.max(np.abs(x - y)), blocks[b]["layers"][name], expected
            )
            assert max(jax.tree.leaves(gaps)) < 1e-6, "warm-up has hardly begun"


def test_a_converted_run_is_trained_further_end_to_end(exported, converted, tmp_path):
    run = tmp_path / "run"
    barely = "--config.optimizer.warmup_steps=1000000"
    convert.main([str(exported), LAYOUT, PLAIN, f"--workdir={run}", *SMALL, barely])
    train.main([f"--workdir={run}", "--quiet"])
    gaps = jax.tree.map(lambda x, y: np.max(np.abs(x - y)), weights(run), weights(converted))
    assert 0 < max(jax.tree.leaves(gaps)) < 1e-6


def test_nothing_is_overwritten_and_nothing_is_left_behind(pretrained, exported, tmp_path):
    command = [exported, LAYOUT, PLAIN, *SMALL]
    before = {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")}
    error = refusal(*command, f"--workdir={pretrained}")
    assert error == f"{pretrained} is not empty; allowed: a new or empty folder"
    error = refusal(f"--export={pretrained}", LAYOUT, f"--workdir={pretrained}")
    assert error == f"{pretrained} is not empty; allowed: a new or empty folder"
    assert {path: path.stat().st_mtime_ns for path in pretrained.rglob("*")} == before
    (tmp_path / "file").write_text("mine")
    assert "is a file; allowed" in refusal(*command, f"--workdir={tmp_path / 'file'}")
    assert "cannot be written" in refusal(*command, f"--workdir={tmp_path / 'file' / 'run'}")
    wider = [*command, "--config.model.width=16", f"--workdir={tmp_path / 'run'}"]
    assert "hidden_size in the config.json of" in refusal(*wider)
    (exported / "model.safetensors").rename(exported / "moved.safetensors")
    try:
        assert "model.safetensors" in refusal(*command, f"--workdir={tmp_path / 'run'}")
    finally:
        (exported / "moved.safetensors").rename(exported / "model.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_what_does_not_go_together_is_refused(pretrained, exported, tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    assert "--config is None; allowed: both, or --export" in refusal(exported, LAYOUT, workdir)
    error = refusal(LAYOUT, f"--workdir={pretrained}", f"--export={tmp_path / 'out'}", PLAIN)
    assert "not with --export" in error
    run = claim(tmp_path / "blocks", load_config("configs/dit_digits.py"))
    error = refusal("--layout=dit", f"--workdir={run}", f"--export={tmp_path / 'out'}")
    assert "is 3; allowed: 1, since blocks have an interface each" in error
    assert sorted(os.listdir(tmp_path)) == ["blocks"]
