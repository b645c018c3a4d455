"""Processes joined by jax.distributed: killed, and restarted on other processes and devices."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dbjax.build import build
from dbjax.session import load
from dbjax.workdir import read_config
from tests.helpers import relative_distance

ROOT = Path(__file__).parents[2]
STEPS = 80
BRIEF = [
    "--config=configs/spiral.py",
    f"--config.training.steps={STEPS}",
    "--config.training.save_every=20",
    "--config.training.log_every=5",
    "--config.placement.steps_per_dispatch=5",
    "--config.placement.sync_every=10",
    "--config.placement.shard_above=32",
    "--config.partition.num_blocks=2",
    "--config.data.batch_size=32",
    "--config.model.width=8",
    "--config.model.depth=2",
]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        return taken.getsockname()[1]


def start(workdir: Path, processes: int, devices: int, *overrides: str) -> list[subprocess.Popen]:
    """`processes` processes of `devices` simulated devices each, joined to one run."""
    command = [sys.executable, "-m", "experiments.train", *BRIEF, f"--workdir={workdir}"]
    joined = [f"--coordinator_address=localhost:{free_port()}", f"--num_processes={processes}"]
    return [
        subprocess.Popen(
            [*command, *overrides, *([*joined, f"--process_id={i}"] if processes > 1 else [])],
            cwd=ROOT,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for i in range(processes)
    ]


def finish(run: list[subprocess.Popen]) -> None:
    assert [process.wait(timeout=200) for process in run] == [0] * len(run)


def kill_after_a_save(run: list[subprocess.Popen], workdir: Path, moments: random.Random) -> None:
    """Kills all processes at a random moment after the next checkpoint."""

    def saved() -> set[Path]:
        return set(workdir.glob("checkpoints/block_*/[0-9]*"))

    before = saved()
    while not any(path.name.isdigit() for path in saved() - before):
        assert all(process.poll() is None for process in run), "over before it could be killed"
        time.sleep(0.02)
    time.sleep(moments.uniform(0, 0.5))
    for process in run:
        process.kill()
    assert [process.wait() for process in run] == [-signal.SIGKILL] * len(run)


def parameters(workdir: Path) -> dict[int, object]:
    setup = build(read_config(workdir))
    model = load(setup.trainer, workdir, shared=setup.placement.interface == "shared")
    assert set(model.steps.values()) == {STEPS}
    return dict(model.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("interface", ["owned", "shared"])
def test_killed_and_restarted_on_other_processes_and_devices(tmp_path, interface):
    reference, run = tmp_path / "reference", tmp_path / "run"
    shared = f"--config.placement.interface={interface}"
    finish(start(reference, 1, 1, shared, "--config.placement.name=sequential"))
    moments = random.Random(0)
    sharded = [shared, "--config.placement.name=sharded"]
    # Blocks on both processes; then all on one; then every block across both.
    kill_after_a_save(start(run, 2, 2, *sharded, "--config.placement.groups=2"), run, moments)
    kill_after_a_save(start(run, 1, 4, *sharded), run, moments)
    finish(start(run, 2, 1, *sharded, "--config.placement.groups=1"))
    expected, found = parameters(reference), parameters(run)
    assert relative_distance(found, expected) < 1e-5
    assert relative_distance(expected, jax.tree.map(np.zeros_like, expected)) > 0.9


def test_told_to_stop_one_process_all_save_at_one_step(tmp_path):
    run = start(tmp_path / "run", 2, 1, "--config.placement.name=sharded",
                "--config.training.steps=100000")  # fmt: skip
    while not list((tmp_path / "run").glob("metrics/*/metrics.jsonl")):
        assert all(process.poll() is None for process in run)
        time.sleep(0.05)
    time.sleep(1)
    run[1].send_signal(signal.SIGTERM)
    finish(run)
    steps = {max(int(p.name) for p in folder.glob("[0-9]*")) for folder in
             (tmp_path / "run" / "checkpoints").glob("block_*[0-9]")}  # fmt: skip
    assert len(steps) == 1
