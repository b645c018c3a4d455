"""Blocks of runs are kept, trained on, exported and joined; what does not belong is refused."""

import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dbjax import session
from dbjax.build import Setup, build
from dbjax.checkpoint import Checkpoints, abstract
from dbjax.config import load_config
from dbjax.data import make_stream
from dbjax.devices import host_memory
from dbjax.errors import SettingError
from dbjax.monitor import read_journal
from dbjax.sampling import Sampler, SamplingConfig
from dbjax.transfer import plan
from dbjax.workdir import claim
from experiments import assemble, cli, train
from tests.helpers import same

BRIEF = [
    "--config=configs/spiral.py",
    "--config.training.steps=2",
    "--config.training.log_every=1",
    "--config.optimizer.schedule=constant",
    "--config.data.batch_size=8",
    "--config.model.depth=3",
    "--config.model.width=8",
    "--config.model.expansion=1",
    "--config.placement.name=sequential",
    "--config.placement.steps_per_dispatch=1",
    "--quiet",
]
MORE = "--config.training.steps=3"


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    """A finished run of three blocks."""
    workdir = tmp_path_factory.mktemp("runs") / "old"
    train.main([*BRIEF, f"--workdir={workdir}"])
    return workdir


@pytest.fixture(scope="module")
def retrained(old) -> Path:
    """Its block 1 trained on, to step 3 in two goes; the others kept."""
    workdir = old.with_name("retrained")
    command = [*BRIEF, f"--workdir={workdir}", f"--from={old}", "--blocks=1"]
    train.main(command)
    before = contents(workdir, 0) | contents(workdir, 2)
    train.main([*command, MORE])
    assert contents(workdir, 0) | contents(workdir, 2) == before
    return workdir


@pytest.fixture
def copy(old, tmp_path):
    """Makes copies of the old run with other settings in their config."""

    def make(name: str, **changes: object) -> Path:
        shutil.copytree(old, tmp_path / name)
        change(tmp_path / name / "config.json", changes)
        return tmp_path / name

    return make


def change(file: Path, changes: dict[str, object]) -> None:
    """Sets values of a JSON file, with two underscores between section and key."""
    values = json.loads(file.read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        holder = values
        for section in sections:
            holder = holder[section]
        holder[key] = value
    file.write_text(json.dumps(values))


def contents(workdir: Path, block: int) -> dict[str, bytes]:
    """Every file of a block's checkpoints."""
    folder = workdir / "checkpoints" / f"block_{block:02d}"
    return {str(p.relative_to(workdir)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def setup_of(old: Path, *overrides: str) -> Setup:
    return build(load_config(old / "config.json", overrides))


def weights(workdir: Path) -> dict:
    """What is sampled from, block by block."""
    return dict(session.load(setup_of(workdir).trainer, workdir).blocks)


def steps(workdir: Path) -> list[list[int]]:
    checkpoints = Checkpoints(workdir / "checkpoints")
    return [checkpoints.steps(b) for b in range(3)]


def refusal(program, *arguments: object) -> str:
    with pytest.raises(SettingError) as error:
        program.main([*map(str, arguments)])
    assert "\n" not in str(error.value)
    return str(error.value)


# --- beginning a run with the blocks of another ---------------------------------------------------


def test_the_named_block_is_trained_and_the_others_stay_as_they_are(old, retrained):
    for b in (0, 2):
        assert contents(retrained, b) == contents(old, b)
    assert steps(retrained) == [[2], [2, 3], [2]]
    rows = [(row["block"], row["step"]) for row in read_journal(retrained)]
    assert rows == [(0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    before, after = weights(old), weights(retrained)
    assert [same(before[b], after[b]) for b in range(3)] == [True, False, True]


def test_training_begins_with_the_averaged_weights(old, tmp_path):
    new = setup_of(old)
    transfer = plan(new, tmp_path, old, (1,))
    workdir = claim(tmp_path, new.config)
    for _ in range(2):
        # Block 1 has no checkpoint yet the second time, the others have.
        start = transfer.begin(workdir)
        assert list(start) == [1]
        assert same(start[1], jax.tree.map(np.asarray, weights(old)[1]))
        assert [len(list(found)) for found in steps(tmp_path)] == [1, 0, 1]


def test_without_blocks_those_are_trained_that_do_not_fit(old, tmp_path):
    new = setup_of(old, "model.depth=4", "partition.layers=[1,1,2]")
    transfer = plan(new, tmp_path, old, None)
    assert transfer.trained == (2,)
    assert [re.sub("  +", "|", line) for line in transfer.table().splitlines()] == [
        f"block|layers|sigma|weights from {old}",
        "0|0|0.505-80|block 0|kept, step 2",
        "1|1|0.18-0.505|block 1|kept, step 2",
        "2|2-3|0.002-0.18|layers 2 of block 2, 3 new; interface of block 2|trained",
    ]
    start = transfer.begin(claim(tmp_path, new.config))
    old_block, fresh = weights(old)[2], jax.jit(lambda: new.trainer.init(2).params)()
    assert same(start[2]["interface"], jax.tree.map(np.asarray, old_block["interface"]))
    assert same(start[2]["layers"][0], jax.tree.map(np.asarray, old_block["layers"][0]))
    assert same(start[2]["layers"][1], jax.tree.map(np.asarray, fresh["layers"][1]))


@pytest.mark.parametrize("override", ["seed=1", "placement.interface=frozen"])
def test_blocks_are_kept_so_that_they_could_be_trained_further(old, tmp_path, override):
    new = setup_of(old, override)
    plan(new, tmp_path, old, (1,)).begin(claim(tmp_path, new.config))
    like = abstract(jax.eval_shape(lambda: new.trainer.init(2)), host_memory())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state, position = checkpoints.read(2, 2, like)
    assert int(state.step) == 2
    assert same(state.weights, weights(old)[2])
    make_stream(new.dataset, new.data, seed=new.trainer.seed, block=2).restore(position)
    assert position["position"] == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--from={old}", r"every block of .* can be kept.*--blocks=0"),
        ("--from={old}/x", r"holds no run"),
        (
            "--from={old} --blocks=0 --config.partition.layers=(2,1,1) --config.model.depth=4 "
            "--config.partition.overlap=0.1",
            r"--blocks does not name block 1,2, and .* has no block of the same noise",
        ),
        ("--from={old} --config.noise.sigma_max=70", r"noise\.sigma_max: 80\.0 there, 70\.0 here"),
        ("--from={old} --blocks=0 --config.placement.interface=shared", r"'shared' and block 1,2"),
        ("--from={old} --config.placement.name=isolated", r"--blocks is None; .*isolated"),
        ("--config.placement.interface=frozen", r"'frozen' and block 0,1,2 .*--from"),
        ("--blocks=1 --config.placement.interface=frozen", r"'frozen' and block 1 .*--from"),
    ],
)
def test_what_cannot_begin_is_refused_before_anything_is_written(
    old, tmp_path, arguments, sentence
):
    workdir = tmp_path / "run"
    error = refusal(train, *BRIEF, f"--workdir={workdir}", *arguments.format(old=old).split())
    assert re.search(sentence, error)
    assert not workdir.exists()


def test_another_network_is_refused(copy, tmp_path):
    run = copy("run", model__width=16)
    error = refusal(train, *BRIEF, f"--workdir={tmp_path / 'new'}", f"--from={run}", "--blocks=0")
    assert "model.width: 16 there, 8 here" in error


def test_another_family_is_refused(old, tmp_path):
    config = ["--config=configs/dit_digits.py", "--blocks=0"]
    error = refusal(train, *config, f"--workdir={tmp_path / 'run'}", f"--from={old}")
    assert "family: 'mlp' there, 'dit' here" in error


def test_a_block_that_the_old_run_lacks_is_refused(old, copy, tmp_path):
    run = copy("run")
    shutil.rmtree(run / "checkpoints" / "block_02")
    error = refusal(train, *BRIEF, f"--workdir={tmp_path / 'new'}", f"--from={run}", "--blocks=1")
    assert "no checkpoint of block 2" in error


def test_a_folder_is_continued_as_it_was_begun_only(old, retrained, copy, tmp_path):
    error = refusal(train, *BRIEF, f"--workdir={retrained}", f"--from={old}", "--blocks=0")
    assert re.search(r"begun with --from=.*training \[1\].*continued with .*training \[0\]", error)
    error = refusal(train, *BRIEF, f"--workdir={copy('run')}", f"--from={old}", "--blocks=1")
    assert "was begun without --from" in error
    # Before block 1 has a checkpoint, training it without --from would begin with fresh weights.
    new = setup_of(old)
    plan(new, tmp_path / "new", old, (1,)).begin(claim(tmp_path / "new", new.config))
    error = refusal(train, f"--workdir={tmp_path / 'new'}", "--quiet")
    assert re.search(r"begun with --from=.*continued without --from", error)


# --- joining blocks -------------------------------------------------------------------------------


def test_blocks_that_were_exported_and_imported_sample_the_same(old, tmp_path, capsys):
    parts = [tmp_path / f"part{b}" for b in range(3)]
    for b, part in enumerate(parts):
        assemble.main([f"--workdir={part}", "--from", f"{old}:{b}", "--partial"])
        assert [p.name for p in (part / "metrics").iterdir()] == [f"block_{b:02d}"]
    out = tmp_path / "out"
    capsys.readouterr()
    assemble.main([f"--workdir={out}", "--from", *map(str, reversed(parts))])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["block", "from", "step"], *([str(b), str(parts[b]), "2"] for b in range(3))]
    for b in range(3):
        assert contents(out, b) == contents(old, b)
    assert (out / "config.json").read_text() == (old / "config.json").read_text()
    assert read_journal(out) == read_journal(old)
    setup = setup_of(out)
    sampler = Sampler(setup.task, SamplingConfig(num_steps=3, batch_size=4))
    expected, found = (
        session.load(setup.trainer, run).sample(4, label=np.arange(4) % 3, sampler=sampler)
        for run in (old, out)
    )
    np.testing.assert_array_equal(expected, found)


def test_a_block_is_replaced_by_one_that_was_trained_longer(old, retrained, tmp_path, capsys):
    out = tmp_path / "out"
    assemble.main([f"--workdir={out}", "--from", f"{old}:0,2", f"{retrained}:1"])
    assert "different steps" in capsys.readouterr().out
    assert steps(out) == [[2], [3], [2]]
    assert json.loads((out / "config.json").read_text())["training"]["steps"] == 3
    expected, found = weights(retrained), weights(out)
    assert all(same(found[b], expected[b]) for b in range(3))


def test_all_blocks_of_a_run_with_a_shared_interface_stay_together(copy, tmp_path):
    run, out = copy("run", placement__interface="shared"), tmp_path / "out"
    (run / "checkpoints" / "snapshot.json").write_text('{"0": 2, "1": 2, "2": 2}')
    assert "shared" in refusal(assemble, f"--workdir={out}", "--from", f"{run}:0,1", f"{run}:2")
    assert "shared" in refusal(assemble, f"--workdir={out}", "--from", f"{run}:0", "--partial")
    assemble.main([f"--workdir={out}", "--from", str(run)])
    assert set(session.load(setup_of(out).trainer, out, shared=True).blocks) == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model__width": 16}, r"different configs, model\.width: 8 there, 16 here; allowed"),
        ({"seed": 1}, r"seed is 0 in .*old and 1 in .*drawn from it"),
        ({"optimizer__b1": 0.8}, r"optimizer\.b1: 0\.9 there, 0\.8 here"),
    ],
)
def test_blocks_of_different_runs_are_refused(old, copy, tmp_path, changes, sentence):
    other, out = copy("other", **changes), tmp_path / "out"
    error = refusal(assemble, f"--workdir={out}", "--from", f"{old}:0", f"{other}:1,2")
    assert re.search(sentence, error)
    assert not out.exists()


def test_blocks_of_different_data_are_refused(old, copy, tmp_path):
    other, out = copy("other"), tmp_path / "out"
    for step in (other / "checkpoints" / "block_01").iterdir():
        change(step / "data" / "metadata", {"fingerprint": "other"})
    error = refusal(assemble, f"--workdir={out}", "--from", f"{old}:0,2", f"{other}:1")
    assert re.search(r"different data .*other for block 1", error)
    assert not out.exists()


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        ("{old}:0,1", r"block 2 is in none of the runs; allowed: .*--partial"),
        ("{old} {old}:1", r"block 1 is in .* and in .*allowed: .*old:1"),
        ("{old}:3", r"--from .*old:3 is '3'; allowed: different numbers from 0 to 2"),
        ("{old}/metrics", r"not a run of dbjax"),
        ("{old}/nothing", r"holds no run"),
    ],
)
def test_what_cannot_be_joined_is_refused_before_anything_is_written(
    old, tmp_path, sources, sentence
):
    out = tmp_path / "out"
    error = refusal(assemble, f"--workdir={out}", "--from", *sources.format(old=old).split())
    assert re.search(sentence, error)
    assert not out.exists()


def test_a_block_without_a_checkpoint_is_refused(copy, tmp_path):
    run = copy("run")
    shutil.rmtree(run / "checkpoints" / "block_02")
    error = refusal(assemble, f"--workdir={tmp_path / 'out'}", "--from", f"{run}:1,2")
    assert re.search(r"no checkpoint of block 2; allowed: 0,1", error)


def test_a_refusal_is_one_line_and_leaves_a_folder_alone(old, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").write_text("mine")
    arguments = ["assemble", f"--workdir={tmp_path}", "--from", str(old)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert cli.program(assemble.main) == 2
    assert re.fullmatch(r"error: .* is not empty; allowed: .*\n", capsys.readouterr().err)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
