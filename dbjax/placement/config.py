"""The `placement` section of a config."""

import dataclasses

from dbjax.errors import require

NAMES = ("sequential", "stacked")
INTERFACES = ("owned", "shared")


@dataclasses.dataclass(frozen=True)
class PlacementConfig:
    """Where blocks live, and what they exchange.

    Attributes:
        name: `sequential`, one block on the device at a time, the others on the host; `stacked`,
            all blocks in one program on one device.
        interface: `owned`, every block has its own and nothing is ever exchanged; `shared`, the
            interfaces are averaged over blocks every `sync_every` steps.
        sync_every: see `interface`; 1 is what the paper's released code does.
        steps_per_visit: sequential: steps of one block before the next is fetched.
        steps_per_dispatch: steps in one call of the compiled program.
        prefetch: sequential: bring the next block to the device while this one finishes its visit.
            Hides the transfer and holds a second block's state for that moment.
    """

    name: str = "sequential"
    interface: str = "owned"
    sync_every: int = 1
    steps_per_visit: int = 100
    steps_per_dispatch: int = 20
    prefetch: bool = True

    def __post_init__(self) -> None:
        for field, names in (("name", NAMES), ("interface", INTERFACES)):
            value = getattr(self, field)
            allowed = " or ".join(map(repr, names))
            require(value in names, f"placement.{field}", value, allowed)
        for field in ("sync_every", "steps_per_visit", "steps_per_dispatch"):
            value = getattr(self, field)
            require(value >= 1, f"placement.{field}", value, "1 or more")
