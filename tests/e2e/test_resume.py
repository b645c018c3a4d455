"""Killed at random moments and restarted, a run ends with the bits of one never stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dbjax.build import build
from dbjax.monitor import read_journal
from dbjax.session import load
from dbjax.workdir import read_config

ROOT = Path(__file__).parents[2]
STEPS = 1000
BRIEF = [
    "--config=configs/spiral.py",
    f"--config.training.steps={STEPS}",
    "--config.training.save_every=100",
    "--config.training.log_every=10",
    "--config.placement.steps_per_visit=25",
    "--config.placement.steps_per_dispatch=5",
    "--config.data.batch_size=32",
    "--config.model.width=16",
    "--config.model.depth=3",
]


def start(workdir: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.train", *BRIEF, f"--workdir={workdir}"]
    return subprocess.Popen(
        [*command, *overrides], cwd=ROOT, env=dict(os.environ), stderr=subprocess.DEVNULL
    )


def wait_until_it_trains(process: subprocess.Popen, workdir: Path) -> None:
    """Returns once the process has written a row of metrics."""
    before = time.time()
    while process.poll() is None:
        for journal in workdir.glob("metrics/*/metrics.jsonl"):
            if journal.stat().st_size and journal.stat().st_mtime > before + 0.5:
                return
        time.sleep(0.02)


def parameters(workdir: Path) -> list[np.ndarray]:
    setup = build(read_config(workdir))
    model = load(setup.trainer, workdir, shared=setup.placement.interface == "shared")
    assert set(model.steps.values()) == {STEPS}
    return [np.asarray(x) for x in jax.tree.leaves(dict(model.blocks))]


@pytest.mark.parametrize(
    ("kills", "overrides"),
    [
        (3, ["--config.placement.name=sequential"]),
        pytest.param(10, ["--config.placement.name=sequential"], marks=pytest.mark.slow),
        pytest.param(
            2,
            ["--config.placement.interface=shared", "--config.placement.sync_every=25"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["sequential-owned", "sequential-owned-long", "stacked-shared"],
)
def test_killed_runs_end_with_the_same_bits(tmp_path, kills, overrides):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    assert start(undisturbed, *overrides).wait() == 0
    moments = random.Random(0)
    killed = 0
    for _ in range(kills):
        process = start(disturbed, *overrides)
        wait_until_it_trains(process, disturbed)
        time.sleep(moments.uniform(0, 0.7))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
    assert killed >= kills // 2, "the run was over before it could be killed: too few steps"
    assert start(disturbed, *overrides).wait() == 0
    for expected, found in zip(parameters(undisturbed), parameters(disturbed), strict=True):
        np.testing.assert_array_equal(found, expected)
    rows = [(row["block"], row["step"]) for row in read_journal(disturbed)]
    assert len(rows) == len(set(rows)), "a row of metrics was written twice"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_first(tmp_path, number):
    process = start(tmp_path, "--config.training.save_every=100000")
    wait_until_it_trains(process, tmp_path)
    process.send_signal(number)
    assert process.wait() == 0
    setup = build(read_config(tmp_path))
    model = load(setup.trainer, tmp_path)
    assert 0 < min(model.steps.values()) < STEPS
