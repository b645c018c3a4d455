"""Where blocks live while they train. See `dbjax.training.Placement` for the contract."""

from collections.abc import Callable, Mapping

from dbjax.placement.config import PlacementConfig
from dbjax.placement.sequential import Sequential
from dbjax.placement.stacked import Stacked
from dbjax.training import BlockState, Placement, Stream, Trainer

PLACEMENTS: Mapping[str, Callable[..., Placement]] = {"sequential": Sequential, "stacked": Stacked}


def make_placement(
    config: PlacementConfig,
    trainer: Trainer,
    states: Mapping[int, BlockState],
    streams: Mapping[int, Stream],
) -> Placement:
    """The placement that `config.name` asks for, holding `states` and reading `streams`."""
    return PLACEMENTS[config.name](config, trainer, states, streams)


__all__ = ["PLACEMENTS", "PlacementConfig", "Sequential", "Stacked", "make_placement"]
