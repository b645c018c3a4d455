"""Which block lives on which devices."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dbjax.errors import require
from dbjax.placement.config import PlacementConfig


@dataclasses.dataclass(frozen=True)
class Layout:
    """Blocks on a mesh of devices with the axes `block` (groups) and `data` (within a group).

    Attributes:
        mesh: all devices in use.
        slots: `slots[j][g]` is the block in slot j of group g; each group has every slot once.
    """

    mesh: Mesh
    slots: tuple[tuple[int, ...], ...]

    @property
    def ways(self) -> int:
        """Devices that share out a batch, and the large arrays, of one block."""
        return self.mesh.shape["data"]

    def describe(self) -> str:
        """The mesh in words."""
        groups, ways = self.mesh.devices.shape
        return f"{groups} x {ways} devices: groups of blocks x shares of a batch"

    def find(self, block: int) -> tuple[int, int]:
        """(slot, group) of a block."""
        return next((j, row.index(block)) for j, row in enumerate(self.slots) if block in row)

    def processes(self, block: int) -> list[int]:
        """The processes that hold a part of the block, ascending; the first speaks for it."""
        _, group = self.find(block)
        return sorted({device.process_index for device in self.mesh.devices[group]})

    def group_mesh(self, group: int) -> Mesh:
        """The devices of one group."""
        return Mesh(self.mesh.devices[group], ("data",), axis_types=(AxisType.Auto,))

    def sharding(self, *spec: str | None) -> NamedSharding:
        """One dimension after the other: `block`, `data` or None."""
        return NamedSharding(self.mesh, P(*spec))


def make_layout(config: PlacementConfig, blocks: Sequence[int]) -> Layout:
    """Shares `blocks` out among the devices that `config` asks for.

    Raises:
        SettingError: if there are too few devices, or blocks cannot be shared out evenly.
    """
    if config.name == "sharded":
        found = jax.devices()
        wanted = len(found) if config.devices is None else config.devices
        require(wanted <= len(found), "placement.devices", wanted, f"at most {len(found)}, as here")
    else:
        found, wanted = jax.local_devices(), 1
    groups = math.gcd(len(blocks), wanted) if config.groups is None else config.groups
    if config.name != "sharded":
        groups = 1
    allowed = [g for g in range(1, len(blocks) + 1) if len(blocks) % g == 0 and g <= wanted]
    require(
        groups in allowed,
        "placement.groups",
        groups,
        f"{' or '.join(map(str, allowed))} ({len(blocks)} blocks on {wanted} devices)",
    )
    ways = wanted // groups
    mesh = jax.make_mesh(
        (groups, ways),
        ("block", "data"),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=found[: groups * ways],
    )
    per_group = len(blocks) // groups
    return Layout(mesh, tuple(tuple(blocks[j::per_group]) for j in range(per_group)))


def data_axis(shape: Sequence[int], ways: int, above: int) -> int | None:
    """The dimension of a parameter array that is divided among a group's devices, if any.

    The largest that can be divided, and the last of equals, so that the leading axis of stacked
    layers, which the network walks along, stays whole.
    """
    if ways == 1 or math.prod(shape) < above:
        return None
    divisible = [axis for axis, size in enumerate(shape) if size % ways == 0]
    return max(divisible, key=lambda axis: (shape[axis], axis), default=None)
