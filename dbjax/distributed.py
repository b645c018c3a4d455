"""Several processes that train one model together, on one machine or many."""

import jax
from jax.experimental import multihost_utils

from dbjax.errors import SettingError


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; to be called before anything else asks for devices.

    On a TPU pod, Slurm, Kubernetes and the like the processes find each other. Elsewhere all three
    arguments have to be given.

    Args:
        coordinator_address: host:port of process 0, as the others reach it.
        num_processes: how many.
        process_id: number of this one, from 0.

    Raises:
        SettingError: if some but not all arguments are given, or if the processes cannot be found.
    """
    given = (coordinator_address, num_processes, process_id)
    if None in given and any(value is not None for value in given):
        raise SettingError(
            f"coordinator_address, num_processes and process_id are {given}; allowed: all three, "
            "or none on a cluster that jax knows"
        )
    if (
        num_processes is not None
        and process_id is not None
        and process_id not in range(num_processes)
    ):
        raise SettingError(f"process_id is {process_id}; allowed: 0 to {num_processes - 1}")
    try:
        jax.distributed.initialize(*given)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingError(
            f"the processes of this run cannot be joined: {reason} (outside of clusters that jax "
            "knows, name coordinator_address, num_processes and process_id)"
        ) from error


def wait_for_all_processes(name: str) -> None:
    """Returns once every process has come here; at once where there is one only."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


class Preemption:
    """Asked after each chunk of work: whether some process has been told to stop (SIGTERM).

    The answer is the same in all processes at the same chunk, so that they save together. Used as
    `dbjax.loop.Interruption` is, which knows of its own process only.
    """

    def __init__(self) -> None:
        self._chunks = 0
        self._asked = False

    def __call__(self) -> bool:
        if not self._asked:
            self._chunks += 1
            self._asked = bool(multihost_utils.reached_preemption_sync_point(self._chunks))
        return self._asked

    def __enter__(self) -> "Preemption":
        return self

    def __exit__(self, *exception: object) -> None:
        pass
