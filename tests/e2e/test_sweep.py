"""A sweep of real runs: the programs it starts, and kills at any time."""

import json
import random
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dbjax.monitor import read_journal
from dbjax.sweeps import product, sweep
from experiments import evaluate, sweep_run, train
from experiments import sweep as program
from experiments.report_runs import read_run

ROOT = Path(__file__).parents[2]
STEPS = 200
BRIEF = [
    "--config=configs/spiral.py",
    f"--config.training.steps={STEPS}",
    "--config.training.save_every=20",
    "--config.training.log_every=10",
    "--config.placement.steps_per_dispatch=5",
    "--config.data.batch_size=32",
    "--config.model.width=8",
    "--config.model.depth=2",
    "--config.sampling.num_steps=10",
    "--num_samples=16",
]
SAMPLED = [{}, {"sampling.num_steps": 4, "sampling.grid": "adaptive"}]
ONE_RUN, TWO_RUNS = (
    product(sweep("partition.num_blocks", blocks), SAMPLED) for blocks in ((1,), (1, 2))
)


def arguments(folder, points):
    file = folder / "points.py"
    file.write_text(f"def get_sweep():\n    return {points!r}\n")
    return [*BRIEF, f"--sweep={file}", f"--workdir={folder / 'all'}"]


def rows_of(folder):
    return json.loads((folder / "all" / "sweep.json").read_text())["rows"]


def runs_of(folder):
    return sorted((folder / "all" / "runs").glob("*/seed_0"))


def test_what_it_starts_are_the_ordinary_programs(tmp_path, monkeypatch, quick_compilation):
    def in_this_process(runner, log, lock, device, name, *given):
        {"train": train.main, "evaluate": evaluate.main}[name](given)

    monkeypatch.setattr(sweep_run.Runner, "_process", in_this_process)
    # What takes long to compile and is tested elsewhere.
    monkeypatch.setattr(evaluate, "loss_over_noise", lambda *_: [])
    monkeypatch.setattr(evaluate, "seconds_per_step", lambda setups: dict.fromkeys(setups, 0.25))
    monkeypatch.setattr(evaluate, "train_bytes", lambda setup: {"total": 2**20})
    program.main(arguments(tmp_path, ONE_RUN))
    rows = rows_of(tmp_path)
    assert [row["status"] for row in rows] == ["done"] * 2
    layers = [row["values"]["layer_evaluations_per_sample"]["mean"] for row in rows]
    assert layers == [2 * 10, 2 * 4]
    distances = [row["values"]["frechet_distance"]["mean"] for row in rows]
    assert distances[0] != distances[1]
    assert {row["values"]["train_bytes.total"]["mean"] for row in rows} == {2**20}
    # A run of a sweep is a run like any other.
    (run,) = runs_of(tmp_path)
    assert read_run(run).steps == [STEPS]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(tmp_path):
    command = [sys.executable, "-m", "experiments.sweep", *arguments(tmp_path, TWO_RUNS)]
    moments = random.Random(0)
    for all_of_them in (False, True, False, True):
        process = psutil.Popen(command, cwd=ROOT)
        began = time.time()
        while not any(
            row["time"] > began for run in runs_of(tmp_path) for row in read_journal(run)
        ):
            assert process.poll() is None, shlex.join(command)
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        victims = [process, *(process.children(recursive=True) if all_of_them else [])]
        for victim in victims:
            victim.kill()
        process.wait()
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert [row["status"] for row in rows_of(tmp_path)] == ["done"] * 4
    for run, blocks in zip(runs_of(tmp_path), (1, 2), strict=True):
        rows = [(row["block"], row["step"]) for row in read_journal(run)]
        assert rows == [(b, s) for b in range(blocks) for s in range(10, STEPS + 1, 10)]
