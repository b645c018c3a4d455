"""Trains each block in a process of its own on this machine; what dies is started again.

The processes know neither each other nor this one: each is `experiments.train --blocks=...`, which
can as well be started by hand, on any machine.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm.auto import tqdm

from dbjax.build import Setup, build
from dbjax.checkpoint import Checkpoints
from dbjax.errors import require
from dbjax.loop import Interruption
from dbjax.transfer import plan
from dbjax.workdir import claim, hold
from experiments.processes import Share, find_devices, reason_of_end, shares

MAX_RESTARTS = 5  # of one process, without a new checkpoint in between
_LOOK_EVERY, _TELL_EVERY = 0.2, 60.0  # seconds; the second where there is no terminal
_BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} steps{postfix}"


def launch(config: ConfigDict, path: Path, processes: int | None = None) -> int:
    """Trains all blocks of a config to its `training.steps`, each apart from the others.

    Ctrl-C and SIGTERM have the processes save and stop; a second Ctrl-C kills them.

    Args:
        config: of the run.
        path: its folder; what the processes print goes to its logs/.
        processes: at most so many; None is one for each block, as far as there are accelerators.

    Returns:
        The exit status: 0 if every block has reached its last step, else 1.

    Raises:
        SettingError: for a setting that cannot be used, or a block that another process trains.
    """
    require(processes is None or processes >= 1, "--processes", processes, "1 or more")
    # On an accelerator this process would take the memory that the others need.
    jax.config.update("jax_platforms", "cpu")
    # Besides checking the config this fetches missing data, once rather than in each process.
    setup = build(config)
    plan(setup, path, None, None)
    backend, num_devices = find_devices()
    num_blocks, target = setup.task.partition.num_blocks, setup.training.steps
    groups = share_out(num_blocks, None if backend == "cpu" else num_devices, processes)
    workdir = claim(path, config)
    # Processes of a launcher that was killed train on, and their rows would pass for those of ours.
    with hold(workdir, range(num_blocks)):
        pass
    _tell(f"{num_blocks} blocks in {len(groups)} processes ({backend}); logs in {workdir / 'logs'}")
    children: list[Child] = []
    try:
        with Interruption() as interrupted:
            for blocks, share in zip(groups, shares(backend, len(groups)), strict=True):
                children.append(Child(workdir, blocks, share))
            _watch(children, target, setup, interrupted)
    finally:
        for child in children:
            child.process.kill()
            child.process.wait()
    saved = {b: step for child in children for b, step in child.saved().items()}
    steps = ", ".join(f"block {b} at {step}" for b, step in saved.items())
    if min(saved.values()) >= target:
        return 0
    ended = "stopped" if interrupted() else f"not all blocks have reached step {target}"
    _tell(f"{ended} ({steps}); the same command continues")
    return 1


def share_out(num_blocks: int, *limits: int | None) -> list[tuple[int, ...]]:
    """The blocks of each process, as many processes as blocks and limits allow."""
    count = min([num_blocks, *(limit for limit in limits if limit is not None)])
    return [tuple(share.tolist()) for share in np.array_split(np.arange(num_blocks), count)]


class Restarts:
    """Counts restarts of a process, and says when to give up."""

    def __init__(self) -> None:
        self.total = 0
        self._in_vain = 0
        self._saved: Mapping[int, int] = {}

    def allow(self, saved: Mapping[int, int]) -> bool:
        """Whether to start again after a death, given each block's last checkpoint, in steps."""
        self._in_vain = self._in_vain + 1 if saved == self._saved else 1
        self._saved = saved
        self.total += self._in_vain <= MAX_RESTARTS
        return self._in_vain <= MAX_RESTARTS


class Child:
    """A process that trains some of the blocks; `outcome` is None until it has ended for good."""

    def __init__(self, workdir: Path, blocks: Sequence[int], share: Share) -> None:
        self.blocks = blocks
        self.outcome: str | None = None
        self._restarts = Restarts()
        self._workdir = workdir
        self._checkpoints = Checkpoints(workdir / "checkpoints")
        numbers = "-".join(f"{b:02d}" for b in sorted({blocks[0], blocks[-1]}))
        self._log = workdir / "logs" / f"block_{numbers}.log"
        self._log.parent.mkdir(exist_ok=True)
        self._command = [sys.executable, "-m", "experiments.train", "--quiet"]
        self._command += [f"--workdir={workdir}", f"--blocks={','.join(map(str, blocks))}"]
        self._share = share
        self._start()

    def _start(self) -> None:
        self._started = time.time()
        with self._log.open("ab") as log:
            self._printed = log.tell()
            self.process = self._share.start(self._command, stdout=log, stderr=log)

    def saved(self) -> dict[int, int]:
        """The last checkpoint of each of its blocks, in steps; 0 before there is one."""
        return {b: max(self._checkpoints.steps(b), default=0) for b in self.blocks}

    def look(self, target: int, stopping: bool) -> None:
        """Starts the process again if it has died, and where that is in vain says why."""
        if (status := self.process.poll()) is None:
            return
        saved = self.saved()
        if status == 0 or stopping:
            self.outcome = "done" if min(saved.values()) >= target else "stopped"
            return
        name = f"block {' and '.join(map(str, self.blocks))}"
        reason, final = reason_of_end(status, self._log, self._printed)
        if not final and self._restarts.allow(saved):
            _tell(f"{name} died and is started again: {reason}")
            self._start()
        else:
            often = "" if final else f" after {MAX_RESTARTS} restarts without a new checkpoint"
            _tell(f"{name} failed{often}: {reason}")
            self.outcome = "failed"

    def progress(self, target: int, batch_size: int, unit: str) -> dict[int, tuple[int, str]]:
        """Steps of each of its blocks, and a few words on it."""
        if self.outcome is not None:
            return {b: (step, self.outcome) for b, step in self.saved().items()}
        rows = {b: self._last_row(b) for b in self.blocks}
        steps = {b: int(row["step"]) if row else self.saved()[b] for b, row in rows.items()}
        left = batch_size * sum(target - step for step in steps.values())
        told = {}
        for b, row in rows.items():
            words = [f"loss {row['loss']:.3f}"] if row else ["starting"]
            if speed := row.get("examples_per_second"):
                time_left = tqdm.format_interval(left / speed)
                words += [f"{tqdm.format_sizeof(speed)} {unit}/s", f"{time_left} left"]
            if self._restarts.total:
                words += [f"restarts: {self._restarts.total}"]
            told[b] = (steps[b], " · ".join(words))
        return told

    def _last_row(self, block: int) -> dict[str, float]:
        """Of the block's journal; empty before the process has written one."""
        journal = self._workdir / "metrics" / f"block_{block:02d}" / "metrics.jsonl"
        if not journal.exists():
            return {}
        with journal.open("rb") as file:
            file.seek(-min(4096, os.fstat(file.fileno()).st_size), os.SEEK_END)
            lines = file.read().split(b"\n")[:-1]
        row = json.loads(lines[-1]) if lines else {}
        return row if row.get("time", 0) > self._started else {}


def _watch(children: Sequence[Child], target: int, setup: Setup, stop: Interruption) -> None:
    """Shows a line for each block, or text once a minute, until all processes ended for good."""
    batch_size, unit = setup.data.batch_size, setup.dataset.info.unit
    blocks = [b for child in children for b in child.blocks if sys.stderr.isatty()]
    bars = {b: tqdm(desc=f"block {b}", total=target, bar_format=_BAR) for b in blocks}
    told, asked, running = time.monotonic(), False, list(children)
    try:
        while running:
            time.sleep(_LOOK_EVERY)
            if stop() and not asked:
                asked = True
                _tell("stopping once all is saved; Ctrl-C again stops at once")
                for child in running:
                    child.process.terminate()
            if late := time.monotonic() > told + _TELL_EVERY:
                told = time.monotonic()
            for child in running:
                child.look(target, stop())
                for b, (step, words) in child.progress(target, batch_size, unit).items():
                    if bars:
                        bars[b].n = step
                        bars[b].set_postfix_str(words)
                    elif late or child.outcome:
                        _tell(f"block {b} at {step} of {target} steps, {words}")
            running = [child for child in running if child.outcome is None]
    finally:
        for bar in bars.values():
            bar.close()


def _tell(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
