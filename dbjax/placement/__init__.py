"""Where blocks live while they train. See `dbjax.training.Placement` for the contract."""

from collections.abc import Mapping, Sequence

import jax

from dbjax.errors import SettingError
from dbjax.placement.config import PlacementConfig
from dbjax.placement.layout import make_layout
from dbjax.placement.sequential import Sequential
from dbjax.placement.sharded import Sharded
from dbjax.training import BlockState, Placement, Stream, Trainer


def make_placement(
    config: PlacementConfig,
    trainer: Trainer,
    states: Mapping[int, BlockState],
    streams: Mapping[int, Stream],
    *,
    steps: Mapping[int, int] | None = None,
) -> Placement:
    """The placement that `config.name` asks for, holding `states` and reading `streams`.

    Args:
        config: where blocks shall live.
        trainer: what updates them.
        states: of the blocks that this process holds, see `held_blocks`.
        streams: theirs.
        steps: of all blocks of the run, where other processes hold some of them.

    Raises:
        SettingError: if the blocks cannot live there, or cannot share an interface any more.
    """
    if steps is None:
        steps = {b: int(state.step) for b, state in states.items()}
    if config.interface == "shared":
        _check_shared(config, steps)
    if config.name in ("stacked", "sharded"):
        return Sharded(config, trainer, steps, states, streams)
    return Sequential(config, trainer, states, streams)


def held_blocks(config: PlacementConfig, blocks: Sequence[int]) -> dict[int, bool]:
    """Those of a run's `blocks` that this process holds, each with whether it speaks for it.

    A block whose devices belong to several processes is held by each of them, and the first of
    them writes its metrics. Without `jax.distributed` a process holds and speaks for all.
    """
    here = jax.process_index()
    return {
        b: here == processes[0]
        for b, processes in holders(config, blocks).items()
        if here in processes
    }


def holders(config: PlacementConfig, blocks: Sequence[int]) -> dict[int, list[int]]:
    """The processes that hold a part of each block, ascending.

    Raises:
        SettingError: if there are several processes and the placement is not for them.
    """
    if config.name == "sharded":
        layout = make_layout(config, blocks)
        return {b: layout.processes(b) for b in blocks}
    if jax.process_count() > 1:
        raise SettingError(
            f"placement.name is {config.name!r} in a run of {jax.process_count()} connected "
            "processes; allowed: 'sharded' (or no jax.distributed)"
        )
    return {b: [0] for b in blocks}


def _check_shared(config: PlacementConfig, steps: Mapping[int, int]) -> None:
    """Blocks whose interfaces were averaged at different steps no longer share one."""
    first, last = min(steps.values()), max(steps.values())
    if last > (first // config.sync_every + 1) * config.sync_every:
        raise SettingError(
            f"the blocks are at steps {', '.join(map(str, steps.values()))} and no longer share an "
            f"interface that is averaged every {config.sync_every} steps; allowed: blocks of one "
            "period (placement.interface='owned' has no such bond)"
        )


__all__ = ["PlacementConfig", "Sequential", "Sharded", "held_blocks", "holders", "make_placement"]
