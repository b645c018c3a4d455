"""A process for each block: what happens to one of them is nothing to the others."""

import dataclasses
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import psutil
import pytest

from dbjax import session
from dbjax.build import Setup, build
from dbjax.checkpoint import Checkpoints, abstract
from dbjax.config import load_config
from dbjax.devices import host_memory
from dbjax.monitor import read_journal
from dbjax.placement import PlacementConfig
from dbjax.workdir import claim, read_config
from experiments import sample
from tests.helpers import same

ROOT = Path(__file__).parents[2]
STEPS = 2000
SETTINGS = [
    "training.save_every=100",
    "training.log_every=20",
    "placement.name=isolated",
    "placement.steps_per_dispatch=5",
    "sampling.num_steps=3",
    "data.batch_size=32",
    "model.width=16",
    "model.depth=3",
]


def settings(steps: int) -> list[str]:
    return [f"--config.{text}" for text in [*SETTINGS, f"training.steps={steps}"]]


def setup_of(steps: int) -> Setup:
    return build(load_config(ROOT / "configs" / "spiral.py", settings(steps)))


def train(setup: Setup, workdir: Path | None = None) -> session.Model:
    """In this process, without a launcher."""
    return session.run(
        setup.trainer,
        setup.dataset,
        setup.data,
        PlacementConfig("sequential", steps_per_dispatch=5),
        steps=setup.training.steps,
        workdir=workdir,
        show=False,
    )


class Launcher:
    """The command as users give it; `told` is what it printed."""

    def __init__(self, workdir: Path, steps: int) -> None:
        self._workdir = workdir
        self._output = workdir.with_suffix(".txt")
        command = [sys.executable, "-m", "experiments.train", "--config=configs/spiral.py"]
        with self._output.open("w") as output:
            self.process = psutil.Popen(
                [*command, f"--workdir={workdir}", *settings(steps)],
                cwd=ROOT,
                env=dict(os.environ),
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def told(self) -> str:
        return self._output.read_text()

    def training(self, block: int) -> psutil.Process | None:
        """The process of a block, once it has written a row of metrics."""
        for child in self.process.children():
            try:
                if f"--blocks={block}" in child.cmdline():
                    rows = [r for r in read_journal(self._workdir) if r["block"] == block]
                    return child if rows and rows[-1]["time"] > child.create_time() else None
            except psutil.Error:
                pass  # It ended while it was looked at.
        return None

    def wait_for(self, block: int) -> psutil.Process:
        return until(lambda: self.training(block), self)


def until(found: Callable[[], psutil.Process | None], launcher: Launcher) -> psutil.Process:
    while launcher.process.poll() is None:
        if (process := found()) is not None:
            return process
        time.sleep(0.02)
    raise AssertionError(f"the launcher has ended:\n{launcher.told}")


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_block_that_is_killed_and_a_launcher_that_is_stopped_change_nothing(tmp_path, kills):
    workdir = tmp_path / "run"
    setup = setup_of(STEPS)

    launcher = Launcher(workdir, STEPS)
    for b in range(3):
        launcher.wait_for(b)
    launcher.process.send_signal(signal.SIGTERM)
    assert launcher.process.wait() == 1, launcher.told
    stopped = session.load(setup.trainer, workdir).steps
    assert all(0 < step < STEPS for step in stopped.values())
    at = ", ".join(f"block {b} at {step}" for b, step in stopped.items())
    assert f"stopped ({at}); the same command continues" in launcher.told

    launcher = Launcher(workdir, STEPS)
    moments = random.Random(0)
    for _ in range(kills):
        victim = launcher.wait_for(1)
        time.sleep(moments.uniform(0, 0.1))
        victim.kill()
        victim.wait()
    assert launcher.process.wait() == 0, launcher.told
    deaths = re.findall(r"block (\d) died and is started again: (.*)", launcher.told)
    assert deaths == [("1", "killed by SIGKILL")] * kills

    assert same(session.load(setup.trainer, workdir).blocks, train(setup).blocks)
    rows = [(row["block"], row["step"]) for row in read_journal(workdir)]
    assert len(rows) == len(set(rows)), "a row of metrics was written twice"
    sample.main([f"--workdir={workdir}", "--num_samples=8"])
    assert (workdir / "samples" / "samples.npz").exists()


def test_a_block_that_diverges_is_reported_and_the_others_finish(tmp_path):
    workdir = tmp_path / "run"
    before, after = 10, 40
    setup = setup_of(before)
    claim(workdir, setup.config)
    train(setup, workdir)
    poison(setup, workdir, block=1, step=before)

    launcher = Launcher(workdir, after)
    assert launcher.process.wait() == 1
    (told,) = re.findall(r"block 1 failed: (.*)", launcher.told)
    assert told.startswith("the loss of block 1 is nan after step")
    assert "started again" not in launcher.told
    steps = session.load(build(read_config(workdir)).trainer, workdir).steps
    assert steps == {0: after, 1: before + 1, 2: after}
    assert f"not all blocks have reached step {after}" in launcher.told


def poison(setup: Setup, workdir: Path, *, block: int, step: int) -> None:
    """Saves the block one step later, with weights that are no numbers."""
    like = abstract(jax.eval_shape(lambda: setup.trainer.init(block)), host_memory())
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state, data = checkpoints.read(block, step, like)
        params = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), state.params)
        poisoned = dataclasses.replace(state, params=params, step=state.step + 1)
        checkpoints.save({block: (poisoned, data)})
