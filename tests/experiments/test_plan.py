"""The plan: rows, what fits, the recommended command, refusals, measurements."""

import json
import os
import re
import shlex
import subprocess
import sys

import jax
import numpy as np
import pytest

from dbjax import planning
from dbjax.build import build
from dbjax.config import load_config
from dbjax.data import DataConfig, load_dataset, write_latents
from dbjax.data.registry import describe_dataset
from dbjax.memory import StepMemory, parse_bytes, placement_memory
from dbjax.planning import Choice, Plan
from experiments import cli, plan

SPIRAL = "configs/spiral.py"
TINY = ["--config.model.depth=3", "--config.model.width=4", "--config.data.batch_size=64"]
TINY += ["--config.placement.steps_per_dispatch=2"]
RUN = [f"--config={SPIRAL}", *TINY, "--devices=8", "--num_blocks", "3"]
PLACES = [("sequential", 1), ("stacked", 1), ("sharded", 1), ("sharded", 3)]
REPORTS_PEAK = "peak_bytes_in_use" in (jax.local_devices()[0].memory_stats() or {})


@pytest.fixture(scope="module")
def compiled():
    """Memory of all that has been compiled here, so that each program is compiled once; remat makes
    little difference to programs so small, which stand for those with it too."""
    return {}


@pytest.fixture(autouse=True)
def _compile_once(compiled, monkeypatch):
    def remembered(config, trainer, batch):
        key = config, trainer.task.partition, batch["label"].shape
        if key not in compiled:
            compiled[key] = placement_memory(config, trainer, batch)
        return compiled[key]

    monkeypatch.setattr(planning, "placement_memory", remembered)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the program; returns exit status, output and the rows of its JSON."""

    def run(*arguments):
        out = tmp_path / "plan.json"
        status = 0
        try:
            plan.main([*RUN, f"--out={out}", *arguments])
        except SystemExit as done:
            status = done.code
        return status, capsys.readouterr().out, json.loads(out.read_text())["rows"]

    return run


@pytest.fixture
def rows(run):
    """The rows of a plan into which everything fits."""
    status, _, rows = run("--memory=1GiB")
    assert status == 0
    return rows


def recommended(output):
    """The arguments of the command that the output ends with."""
    command = shlex.split(output.strip().splitlines()[-1])
    assert command[:3] == ["python", "-m", "experiments.train"]
    return command[3:]


def built(output):
    """What `experiments.train` would build for the recommended command."""
    given = [text for text in recommended(output) if not text.startswith("--workdir=")]
    file = given.pop(0).removeprefix("--config=")
    return build(load_config(file, given))


def marks(output):
    """The mark of each line of the table."""
    return re.findall(r"^([+> ])  3  (?:none|all) ", output, flags=re.MULTILINE)


def test_every_choice_has_a_row_whose_parts_add_up(rows):
    asked = [(3, remat, *where, 64) for remat in ("none", "all") for where in PLACES]
    names = ("num_blocks", "remat", "placement", "groups", "batch_size")
    assert [tuple(row["choice"][name] for name in names) for row in rows] == asked
    for row in rows:
        parts = dict(row["memory"])
        assert parts.pop("total") == sum(parts.values())


def test_the_table_is_aligned_and_marks_one_row(run, rows):
    _, output, _ = run("--memory=1GiB")
    assert sorted(marks(output)) == ["+"] * 7 + [">"]
    table = [line for line in output.splitlines() if re.match(r".  [ 3]  ", line)]
    assert len({len(line) for line in table}) == 1
    assert max(map(len, output.splitlines()[:-1])) <= 120


def test_a_device_of_several_needs_less_than_one_that_has_all(rows):
    peak = {(r["choice"]["placement"], r["choice"]["groups"]): r["memory"]["total"] for r in rows}
    assert peak["sharded", 3] < peak["stacked", 1]
    assert peak["sharded", 1] < peak["stacked", 1]


def test_one_of_three_groups_holds_a_third_of_the_state(rows):
    state = {
        (r["choice"]["placement"], r["choice"]["groups"]): r["memory"]["parameters"] for r in rows
    }
    assert state["sharded", 3] * 3 == state["stacked", 1] == state["sharded", 1]
    # One block, and the next that is being fetched.
    assert state["sequential", 1] * 3 == state["stacked", 1] * 2


def test_what_fits_is_marked_at_a_limit_between_two_rows(run, rows):
    peaks = sorted(row["memory"]["total"] for row in rows)
    limit = peaks[3] / 1e6
    _, output, found = run(f"--memory={limit:.6f}MB", "--batch_sizes", "64")
    fitting = [row["memory"]["total"] <= peaks[3] for row in rows]
    assert [row["fits"] for row in found] == fitting
    assert [mark != " " for mark in marks(output)] == fitting
    assert 0 < sum(fitting) < len(fitting)


def test_the_recommended_command_is_accepted_and_is_the_config_cut_up(run):
    _, output, _ = run("--memory=1GiB")
    setup = built(output)
    assert setup.placement.name == "sharded"
    assert (setup.placement.devices, setup.placement.groups) == (8, 3)
    assert setup.data.batch_size == 64
    assert setup.trainer.remat == frozenset()
    assert setup.task.network.depth == 3


def test_nothing_fits(run, rows):
    status, output, _ = run("--memory=1KB")
    assert status == 1
    least = min(row["memory"]["total"] for row in rows)
    assert f"{(least - 1000) / 2**20:.2f} MiB too much" in output
    assert "experiments.train" not in output
    assert set(marks(output)) == {" "}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--memory=16"], r"--memory is '16'; allowed: .*16GiB"),
        (["--memory=0GiB"], r"--memory is '0GiB'"),
        (["--memory=much"], r"--memory is 'much'"),
        (["--memory=1GiB", "--devices=0"], r"--devices is 0; allowed: 1 or more"),
        (["--memory=1GiB", "--devices=99", "--measure"], r"--devices is 99; .*at most 8"),
        (["--memory=1GiB", "--num_blocks", "2"], r"partition\.num_blocks is 2; .*divisor"),
        (["--memory=1GiB", "--batch_sizes", "0"], r"data\.batch_size is 0"),
        (["--memory=1GiB", "--config.model.widht=3"], r"model\.widht"),
    ],
)
def test_refusals_are_one_sentence(monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(sys, "argv", ["plan", *RUN, *arguments])
    assert cli.program(plan.main) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(sentence, error)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 2**34), ("80GB", 80 * 10**9), ("1.5GiB", 3 * 2**29), ("500 MB", 5 * 10**8)],
)
def test_amounts_of_memory(text, size):
    assert parse_bytes(text, "--memory") == size


def linear(monkeypatch, state, per_example):
    """Replaces compilation: bytes of the uncut network's state, and of one example in it."""

    def memory(config, trainer, batch):
        cut = trainer.task.partition.num_blocks if config.name == "sequential" else 1
        activations = per_example * jax.tree.leaves(batch)[0].shape[0] // cut
        activations //= 4 if trainer.remat else 1
        total = state // cut + activations
        return StepMemory(state // cut, 0, 0, 0, activations, total)

    monkeypatch.setattr(planning, "placement_memory", memory)


def best(memory, **settings):
    spiral = Plan(SPIRAL, TINY, memory=memory, **settings)
    row = spiral.best(spiral.rows())
    return None if row is None else row.choice


def test_the_config_comes_first_then_what_leaves_its_result_alone(monkeypatch):
    linear(monkeypatch, 3000, 300)
    assert best(30_000) == Choice(3, "none", 64, "stacked")
    assert best(8_000) == Choice(3, "none", 64, "sequential")
    assert best(3_000) == Choice(3, "all", 64, "sequential")
    # Another number of blocks would be needed for nothing: the smaller batch keeps its three.
    assert best(2_000) == Choice(3, "all", 32, "sequential")
    assert best(8_000, num_blocks=[1], batch_sizes=[16, 64]) == Choice(1, "all", 64)
    assert best(999) is None


def test_unasked_batches_are_halved_only_as_far_as_needed(monkeypatch):
    linear(monkeypatch, 3000, 300)
    spiral = Plan(SPIRAL, TINY, memory=6_000, num_blocks=[1])
    sizes = [(row.choice.remat, row.choice.batch_size) for row in spiral.rows()]
    assert sizes == [("none", 64), ("none", 8), ("all", 64), ("all", 32)]


def test_without_room_for_the_state_no_smaller_batch_is_tried(monkeypatch):
    linear(monkeypatch, 3000, 300)
    spiral = Plan(SPIRAL, TINY, memory=2_000, num_blocks=[1])
    assert [row.choice.batch_size for row in spiral.rows()] == [64, 64]


def test_unasked_blocks_are_the_configs_and_divisors_of_its_depth(monkeypatch):
    linear(monkeypatch, 3000, 300)
    overrides = [*TINY, "--config.model.depth=9"]
    rows = Plan(SPIRAL, overrides, memory=10**6).rows()
    assert list(dict.fromkeys(row.choice.num_blocks for row in rows)) == [3, 1]


def test_unasked_blocks_are_one_where_a_family_can_have_no_more(monkeypatch):
    linear(monkeypatch, 3000, 300)
    rows = Plan("configs/huginn_docs.py", [], memory=10**6).rows()
    assert {row.choice.num_blocks for row in rows} == {1}


def test_other_numbers_of_blocks_drop_layers_made_for_the_configs(monkeypatch):
    linear(monkeypatch, 3000, 300)
    overrides = [*TINY, "--config.model.depth=4", "--config.partition.layers=(1,2,1)"]
    rows = Plan(SPIRAL, overrides, memory=10**6, num_blocks=[3, 2]).rows()
    assert {row.choice.num_blocks for row in rows} == {3, 2}


def test_a_batch_that_devices_cannot_share_out_has_no_row(monkeypatch):
    linear(monkeypatch, 3000, 300)
    rows = Plan(SPIRAL, TINY, memory=10**6, devices=8, num_blocks=[3], batch_sizes=[6]).rows()
    assert {row.choice.groups for row in rows if row.choice.placement == "sharded"} == {3}


def test_devices_that_are_not_here_are_simulated():
    code = "from experiments.plan import _see_devices, jax; print(jax.device_count(), "
    code += "_see_devices(3, False), jax.device_count())"
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    out = subprocess.check_output([sys.executable, "-c", code], env=env, text=True)
    assert out.split() == ["2", "True", "3"]


def test_latents_are_described_without_their_files(tmp_path):
    write_latents(tmp_path / "train.array_record", np.zeros((2, 32, 32, 4)), np.zeros(2, int))
    loaded = load_dataset(DataConfig(name="imagenet256_latents", data_dir=str(tmp_path)))
    known = describe_dataset(DataConfig(name="imagenet256_latents"))
    for fact in ("name", "image_shape", "num_classes", "mean", "std", "max_value"):
        assert getattr(known.info, fact) == getattr(loaded.info, fact)
    assert known.dtype == loaded.source[0]["image"].dtype


@pytest.mark.parametrize("file", ["configs/dit_cifar10.py", "configs/dit_imagenet256.py"])
def test_published_configs_can_be_planned_without_their_data(monkeypatch, file):
    linear(monkeypatch, 3000, 300)
    overrides = ["--config.data.data_dir=/nowhere"]
    published = Plan(file, overrides, memory=10**6, num_blocks=[1, 3])
    assert published.best(published.rows()).choice == Choice(3, "none", 512, "stacked")


def test_what_fits_is_measured(monkeypatch, tmp_path, capsys):
    linear(monkeypatch, 3000, 300)
    out = tmp_path / "plan.json"
    plan.main([f"--config={SPIRAL}", *TINY, "--num_blocks", "1", "--devices=1", "--measure",
               "--memory=8KB", "--batch_sizes", "64", f"--out={out}"])  # fmt: skip
    rows = json.loads(out.read_text())["rows"]
    assert [(row["fits"], row["examples_per_second"] is None) for row in rows] == [
        (True, False),
        (False, True),
    ]
    assert ("measured" in capsys.readouterr().out) == REPORTS_PEAK


def test_text_is_planned_in_sequences(monkeypatch, capsys):
    linear(monkeypatch, 3000, 300)
    plan.main(["--config=configs/mdm_docs.py", "--num_blocks", "3", "--devices=1", "--memory=1GiB"])
    output = capsys.readouterr().out
    assert output.startswith("configs/mdm_docs.py: docs 128 tokens of 96 kinds, 1.00 GiB on one de")
    assert "sequences/s" in output and "For sequences/s, --measure." in output
    text = Plan("configs/mdm_docs.py", [], memory=1, num_blocks=[3])
    _, _, batch = text._build(Choice(3, "none", 5))
    assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {"tokens": ((5, 128), np.int32)}


@pytest.mark.skipif(not REPORTS_PEAK, reason="the device does not report its peak")
def test_the_plan_is_within_a_tenth_of_the_measured_peak(tmp_path):
    # A process of its own, since a device tells its highest peak so far; and large enough for the
    # allocator's rounding not to matter.
    out = tmp_path / "plan.json"
    arguments = ["--config=configs/dit_digits.py", "--num_blocks", "3", "--memory=8GiB"]
    arguments += ["--devices=1", "--measure", "--batch_sizes", "4096", f"--out={out}"]
    subprocess.run([sys.executable, "-m", "experiments.plan", *arguments], check=True)
    row = json.loads(out.read_text())["rows"][0]
    assert row["memory"]["total"] == pytest.approx(row["measured_peak"], rel=0.1)
