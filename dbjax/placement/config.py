"""The `placement` section of a config."""

import dataclasses

from dbjax.errors import SettingError, require

NAMES = ("sequential", "stacked", "sharded", "isolated")
INTERFACES = ("owned", "shared", "frozen")


@dataclasses.dataclass(frozen=True)
class PlacementConfig:
    """Where blocks live, and what they exchange.

    Attributes:
        name: `sequential`, one block on the device at a time, the others on the host; `stacked`,
            all blocks in one program on one device; `sharded`, blocks spread over all devices of
            one or more machines by `jax.shard_map`; `isolated`, a process of its own for each
            block, without any connection.
        interface: `owned`, every block has its own and nothing is ever exchanged; `shared`, the
            interfaces are averaged over blocks every `sync_every` steps; `frozen`, they stay as
            they were taken over from another run.
        sync_every: see `interface`; 1 is what the paper's released code does.
        steps_per_visit: sequential: steps of one block before the next is fetched; None measures
            how long a switch and a step take and makes switches cost little beside the visits.
        steps_per_dispatch: steps in one call of the compiled program.
        prefetch: sequential: bring the next block to the device while this one finishes its visit.
            Hides the transfer and holds a second block's state for that moment.
        groups: sharded: groups of devices, each with an equal share of the blocks; its devices
            share out every batch. None is the most that divides both blocks and devices.
        devices: sharded: how many to use; None is all of them.
        shard_above: sharded: parameter arrays (and their moments) of at least so many numbers are
            divided among the devices of a group; smaller ones are on each of them.
    """

    name: str = "sequential"
    interface: str = "owned"
    sync_every: int = 1
    steps_per_visit: int | None = None
    steps_per_dispatch: int = 20
    prefetch: bool = True
    groups: int | None = None
    devices: int | None = None
    shard_above: int = 2**20

    def __post_init__(self) -> None:
        if self.name == "pmap":
            raise SettingError(
                "placement.name is 'pmap', which jax keeps as a wrapper over shard_map; "
                "allowed: 'sharded', which uses jax.shard_map itself"
            )
        for field, names in (("name", NAMES), ("interface", INTERFACES)):
            value = getattr(self, field)
            require(value in names, f"placement.{field}", value, " or ".join(map(repr, names)))
        for field in ("sync_every", "steps_per_dispatch", "shard_above"):
            value = getattr(self, field)
            require(value >= 1, f"placement.{field}", value, "1 or more")
        for field in ("steps_per_visit", "groups", "devices"):
            value = getattr(self, field)
            require(value is None or value >= 1, f"placement.{field}", value, "1 or more, or None")
        require(
            self.name != "isolated" or self.interface != "shared",
            "placement.interface",
            self.interface,
            "'owned' or 'frozen' with placement.name 'isolated', where nothing is exchanged",
        )
