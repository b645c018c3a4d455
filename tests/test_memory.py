"""The memory of one block's step against the end-to-end step, from the compiled programs."""

import pytest

from dbjax.families.dit import DiTConfig
from experiments.memory import dit_memory


@pytest.mark.parametrize(
    ("size", "image_shape", "num_blocks", "batch", "bound"),
    [
        ("S", (32, 32, 3), 3, 512, 0.36),
        ("L", (32, 32, 4), 6, 64, 0.20),
    ],
)
def test_one_block_needs_its_share(size, image_shape, num_blocks, batch, bound):
    block = dit_memory(DiTConfig(size), image_shape, batch, num_blocks)
    whole = dit_memory(DiTConfig(size), image_shape, batch, 1)
    assert block.total / whole.total <= bound
    for found in (block, whole):
        known = found.parameters + found.gradients + found.optimizer + found.average
        assert known + found.activations == found.total
