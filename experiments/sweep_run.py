"""Runs the trials of a sweep, each in processes of its own, and remembers which have failed.

What is done is seen from what lies in the folders, so that this can be killed at any time.
"""

import codecs
import concurrent.futures
import contextlib
import fcntl
import functools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dbjax.errors import require
from dbjax.loop import Interruption
from dbjax.workdir import claim, write_whole
from experiments.many_runs import finished
from experiments.processes import Share, find_devices, reason_of_end, shares
from experiments.sweep_points import Trial, is_of

_LOOK_EVERY, _WAIT = 0.1, 1.0  # seconds: for a process of ours, for one of others

CACHE = "JAX_COMPILATION_CACHE_DIR"

DEFAULTS = {"num_samples": None, "num_noises": 1}
"""What options of `experiments.evaluate` are where they are not given."""


def evaluation(trial: Trial, options: Mapping[str, int]) -> dict[str, Any] | None:
    """The evaluation of a trial; None if there is none of this config, steps and `options`."""
    file = trial.out / "evaluation.json"
    if not file.is_file():
        return None
    found: dict[str, Any] = json.loads(file.read_text())
    trained = all(step >= trial.config.training.steps for step in found["steps"].values())
    asked = found.get("asked") == {**DEFAULTS, **options}
    return found if trained and asked and is_of(trial.config, found) else None


def failure(trial: Trial) -> str | None:
    """Why a trial failed when it was last run, if it did."""
    file = trial.out / "failed.json"
    return json.loads(file.read_text())["error"] if file.is_file() else None


def share_of(trials: Sequence[Trial], text: str) -> list[Trial]:
    """The trials of shard i of n, "i/n"; those of one run stay together.

    Raises:
        SettingError: if that is not a shard.
    """
    index, _, count = text.partition("/")
    good = index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)
    require(good, "--shard", text, "i/n, shard i of n, as 1/16 to 16/16")
    mine = list(dict.fromkeys(trial.folder for trial in trials))[int(index) - 1 :: int(count)]
    return [trial for trial in trials if trial.folder in mine]


class Runner:
    """Brings trials to their evaluations."""

    def __init__(
        self,
        trials: Sequence[Trial],
        *,
        options: Mapping[str, int],
        processes: int = 1,
        compiled: Path,
        stop: Interruption,
    ) -> None:
        """Prepares, and runs nothing.

        Args:
            trials: what to run.
            options: of `experiments.evaluate`, by name.
            processes: runs at once.
            compiled: folder for compiled programs, which runs have largely in common.
            stop: asked all the time.

        Raises:
            SettingError: for more processes than accelerators.
        """
        self._numbers = {trial.log: number for number, trial in enumerate(trials, start=1)}
        self._runs: dict[Path, list[Trial]] = {}
        for trial in trials:
            self._runs.setdefault(trial.folder, []).append(trial)
        self._options, self._compiled = options, compiled.absolute()
        self._stop = stop
        self._kill = threading.Event()
        self._processes = processes
        self._shows = processes == 1 and sys.stderr.isatty()
        self._shares: queue.SimpleQueue[Share] = queue.SimpleQueue()
        backend, count = ("cpu", processes) if processes == 1 else find_devices()
        allowed = f"1 to {count}, the devices of this machine"
        require(backend == "cpu" or processes <= count, "--processes", processes, allowed)
        self._bar = tqdm(total=len(trials), unit="point", disable=processes == 1)
        for share in shares(backend, processes):
            self._shares.put(share)

    def run(self) -> None:
        """Runs all; returns early when it is to stop, which its processes have done by then."""
        left: list[Sequence[Trial]] = list(self._runs.values())
        waits = False
        with self._bar:
            while left and not self._stop():
                if waits:
                    time.sleep(_WAIT)
                left = self._round(left)
                if left and not waits and not self._stop():
                    waits = True
                    self._tell(f"waiting for {len(left)} runs that other processes are making")

    def _round(self, runs: Sequence[Sequence[Trial]]) -> list[Sequence[Trial]]:
        """Makes all runs that no other process makes; returns the others."""
        if self._processes == 1:
            return [run for run in runs if not self._make(run)]
        with concurrent.futures.ThreadPoolExecutor(self._processes) as threads:
            made = [threads.submit(self._make, run) for run in runs]
            try:
                # Interruptible, unlike the wait for a thread.
                while not all(one.done() for one in made):
                    time.sleep(_LOOK_EVERY)
            except BaseException:
                self._kill.set()
                raise
            return [run for run, one in zip(runs, made, strict=True) if not one.result()]

    def _make(self, trials: Sequence[Trial]) -> bool:
        """Trains a run and makes its evaluations; False if another process holds it."""
        if self._stop() or self._kill.is_set():
            return True
        with hold(trials[0].folder) as lock:
            if lock is None:
                return False
            share = self._shares.get()
            try:
                self._make_held(trials, lock, share)
            finally:
                self._shares.put(share)
        return True

    def _make_held(self, trials: Sequence[Trial], lock: int, share: Share) -> None:
        untrained: str | None = None
        for trial in trials:
            if self._stop():
                return
            name = f"{self._numbers[trial.log]} of {len(self._numbers)}: {label(trial)}"
            if evaluation(trial, self._options) is not None:
                self._tell(f"{name} is there")
            else:
                self._tell(name)
                (trial.out / "failed.json").unlink(missing_ok=True)
                run = functools.partial(self._process, trial.log, lock, share)
                reason = untrained or (untrained := self._train(trial, run))
                if reason is None and not self._stop():
                    # The costs of training are the same for all trials of a point or run.
                    alike = trial is not trials[0] or trial.config.seed != trial.point.config.seed
                    reason = self._evaluate(trial, run, alike)
                if self._stop():
                    return
                if reason is not None:
                    trial.out.mkdir(parents=True, exist_ok=True)
                    write_whole(trial.out / "failed.json", json.dumps({"error": reason}) + "\n")
                    self._tell(f"{label(trial)} failed: {reason} (all of it in {trial.log})")
            self._bar.update()

    def _train(self, trial: Trial, run: Callable[..., str | None]) -> str | None:
        """Trains to the last step; returns why not, if it failed."""
        # Of a run that is there, what does not change its training may have changed.
        claim(trial.folder, trial.training)
        if finished(trial.folder, trial.training):
            return None
        quiet = [] if self._shows else ["--quiet"]
        reason = run("train", f"--workdir={trial.folder}", *quiet)
        if reason is None and not finished(trial.folder, trial.training):
            return "stopped before its last step"
        return reason

    def _evaluate(self, trial: Trial, run: Callable[..., str | None], alike: bool) -> str | None:
        """Evaluates; returns why not, if it failed."""
        arguments = [f"--{key}={value}" for key, value in self._options.items()]
        arguments += [f"--out={trial.out}", *trial.point.overrides]
        arguments += ["--quality_only"] if alike else []
        reason = run("evaluate", f"--workdir={trial.folder}", *arguments)
        if reason is None and evaluation(trial, self._options) is None:
            return "evaluated something else"
        return reason

    def _process(
        self, log: Path, lock: int, share: Share, program: str, *arguments: str
    ) -> str | None:
        """Runs a program to its end; returns why it failed, if it did."""
        size = shutil.get_terminal_size()
        variables = {
            "COLUMNS": str(size.columns),
            "LINES": str(size.lines),
            # What it leaves out it says in the last lines, which are to tell the error.
            "JAX_TRACEBACK_FILTERING": "off",
            "TQDM_MININTERVAL": "0.5",
            CACHE: os.environ.get(CACHE, str(self._compiled)),
            **({} if self._shows else {"TQDM_DISABLE": "1"}),
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file, log.open("rb") as printed:
            start = printed.seek(0, os.SEEK_END)
            # To a file even where it is shown: what this starts may live longer than this. So does
            # the lock then, which keeps others from doing the same meanwhile.
            process = share.start(
                command(program, *arguments),
                more=variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=(lock,),
            )
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            asked = False
            try:
                while True:
                    status = process.poll()
                    if self._shows:
                        sys.stderr.write(decoder.decode(printed.read()))
                        sys.stderr.flush()
                    if status is not None:
                        return reason_of_end(status, log, start)[0] if status else None
                    if self._kill.is_set():
                        return "killed"
                    if self._stop() and not asked:
                        asked = True
                        process.terminate()
                    time.sleep(_LOOK_EVERY)
            finally:
                process.kill()
                process.wait()

    def _tell(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)


def command(program: str, *arguments: str) -> list[str]:
    """The command line of one of the programs."""
    return [sys.executable, "-m", f"experiments.{program}", *arguments]


def label(trial: Trial) -> str:
    """Name and seed."""
    return f"{trial.point.name}, {trial.folder.name}"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[int | None]:
    """Keeps other sweeps from a run; None where another holds it, else the open lock.

    Processes that are handed the lock keep it until they, too, have ended; filelock's could not be
    handed on.
    """
    path = folder.with_name(f"{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file.fileno()
