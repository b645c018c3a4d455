"""DiffusionBlocks in JAX: residual networks trained block by block, each block a denoiser.

    task = dbjax.make_task(network, images, num_blocks=3)
    model = dbjax.fit(task, images, steps=2000)
    samples = model.sample(100)

From a config instead: `load_config`, `build`, then `run`.
"""

from dbjax.adaptive import adapt
from dbjax.build import build
from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.families.stack import ResidualStack
from dbjax.noise import LogNormalNoise, MaskingNoise
from dbjax.optimizer import OptimizerConfig
from dbjax.partition import Partition, PartitionConfig, make_partition
from dbjax.placement import PlacementConfig
from dbjax.sampling import Sampler, SamplingConfig
from dbjax.session import Model, fit, load, make_task, run
from dbjax.task import DenoisingTask
from dbjax.training import Trainer

__version__ = "0.1.0"

__all__ = [
    "DenoisingTask",
    "LogNormalNoise",
    "MaskingNoise",
    "Model",
    "OptimizerConfig",
    "Partition",
    "PartitionConfig",
    "PlacementConfig",
    "ResidualStack",
    "Sampler",
    "SamplingConfig",
    "SettingError",
    "Trainer",
    "adapt",
    "build",
    "fit",
    "load",
    "load_config",
    "make_partition",
    "make_task",
    "run",
]
