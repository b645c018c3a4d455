"""Processes beside each other on one machine: what each is given of it, and why one has ended.

Showing each process one of several GPUs, or one TPU chip, goes by documented variables and was not
tried on such machines.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dbjax.errors import SettingError

# The two cores of an older TPU chip are two devices, which one process has to share.
_FIND_DEVICES = """
import jax
places = {str(d.coords) if d.platform == "tpu" else d.id for d in jax.local_devices()}
print(jax.default_backend(), len(places))
"""


@dataclasses.dataclass(frozen=True)
class Share:
    """What a process is given of the machine.

    Attributes:
        variables: environment variables that show it one device only.
        cores: the only ones that it runs on; none where it may run on all.
    """

    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cores: frozenset[int] = frozenset()

    def start(
        self, command: Sequence[str], *, more: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Starts a process.

        Args:
            command: its arguments, the program first.
            more: environment variables besides those of this process and of the share.
            options: of `subprocess.Popen`.
        """
        env = {**os.environ, **(more or {}), **self.variables}
        process = subprocess.Popen(command, env=env, **options)
        if self.cores:
            # Long before it makes threads, of which there are then as many as cores. It may have
            # failed already.
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, self.cores)
        return process


def shares(backend: str, count: int) -> list[Share]:
    """What each of `count` processes is given, as alike as can be.

    On a CPU it is cores, if there are enough: threads of several processes that all want every core
    wait for each other, which took a third of the time of small models on two cores.

    Args:
        backend: of jax; there are `count` devices, if it is not the CPU's.
    """
    if backend in ("gpu", "tpu"):
        return [Share(device_variables(backend, i, os.environ)) for i in range(count)]
    # Not on every system can a process be told its cores.
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if not 1 < count <= len(cores):
        return [Share()] * count
    return [Share(cores=frozenset(own.tolist())) for own in np.array_split(cores, count)]


def device_variables(backend: str, device: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that show a process one device only.

    Args:
        backend: gpu or tpu.
        device: from 0, among those that `environment` shows to jax.
        environment: of this process.
    """
    name = "CUDA_VISIBLE_DEVICES" if backend == "gpu" else "TPU_VISIBLE_CHIPS"
    visible = environment.get(name)
    variables = {name: visible.split(",")[device].strip() if visible else str(device)}
    if backend == "tpu":
        variables |= {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
    return variables


def find_devices() -> tuple[str, int]:
    """Backend and number of devices (TPU: chips) of this machine, without keeping hold of them.

    Raises:
        SettingError: if jax finds none.
    """
    found = subprocess.run([sys.executable, "-c", _FIND_DEVICES], capture_output=True, text=True)
    if found.returncode != 0:
        reason = found.stderr.strip().rpartition("\n")[2]
        raise SettingError(f"jax finds no device on this machine: {reason}")
    backend, number = found.stdout.split()[-2:]
    return backend, int(number)


def reason_of_end(status: int, log: Path, start: int) -> tuple[str, bool]:
    """Why a process that failed has ended, and whether it would do so again.

    Args:
        status: its exit status; below 0 the signal that killed it.
        log: where it has printed.
        start: of what it has printed there, in bytes.
    """
    if status < 0:
        return f"killed by {signal.Signals(-status).name}", False
    printed = log.read_bytes()[start:].decode(errors="replace")
    lines = [f"exit status {status}", *filter(str.strip, printed.splitlines())]
    # Python, too, exits with 1: after an error nobody expected, such as a full device.
    refusals = [line for line in lines if line.startswith("error: ") and status in (1, 2)]
    if refusals:
        return refusals[-1].removeprefix("error: "), True
    return lines[-1], False
