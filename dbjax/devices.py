"""The two memories of the local device: its own, and pinned memory of its host."""

from typing import TypeVar

import jax
from jax.sharding import SingleDeviceSharding

T = TypeVar("T")


def device_memory() -> SingleDeviceSharding:
    """Memory that the device computes in."""
    device = jax.local_devices()[0]
    return SingleDeviceSharding(device, memory_kind=device.default_memory().kind)


def host_memory() -> SingleDeviceSharding:
    """Memory of the host that the device can fetch from; every backend has it, the CPU too."""
    return SingleDeviceSharding(jax.local_devices()[0], memory_kind="pinned_host")


def to_device(tree: T) -> T:
    """Starts bringing arrays to the device."""
    return jax.device_put(tree, device_memory())


def to_host(tree: T) -> T:
    """Starts moving arrays to the host."""
    return jax.device_put(tree, host_memory())
