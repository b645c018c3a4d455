"""The memory of one block's step against the end-to-end step, from the compiled programs."""

import jax
import jax.numpy as jnp
import pytest

from dbjax.families.dit import DiT, DiTConfig
from dbjax.memory import step_memory
from dbjax.noise import LogNormalNoise
from dbjax.partition import PartitionConfig, make_partition
from dbjax.task import DenoisingTask
from dbjax.training import OptimizerConfig, Trainer, make_optimizer


def total_bytes(size: str, image_shape: tuple[int, int, int], num_blocks: int, batch: int) -> int:
    network = DiT(DiTConfig(size), image_shape, num_classes=10)
    noise = LogNormalNoise()
    partition = make_partition(PartitionConfig(num_blocks), noise, network.depth)
    task = DenoisingTask(network, noise, partition, image_shape, num_classes=10)
    trainer = Trainer(task, make_optimizer(OptimizerConfig(), 1000), ema_decay=0.999)
    example = {
        "image": jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    memory = step_memory(trainer, 0, example)
    parts = (
        memory.parameters + memory.gradients + memory.optimizer + memory.average
        + memory.activations
    )  # fmt: skip
    assert parts == memory.total
    return memory.total


@pytest.mark.parametrize(
    ("size", "image_shape", "num_blocks", "batch", "bound"),
    [
        ("S", (32, 32, 3), 3, 512, 0.36),
        ("L", (32, 32, 4), 6, 64, 0.20),
    ],
)
def test_one_block_needs_its_share(size, image_shape, num_blocks, batch, bound):
    block = total_bytes(size, image_shape, num_blocks, batch)
    whole = total_bytes(size, image_shape, 1, batch)
    assert block / whole <= bound
