"""Small stand-ins that several test files share: toy networks, tasks, data and trainers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding

from dbjax.families.stack import ResidualStack
from dbjax.noise import LogNormalNoise
from dbjax.optimizer import OptimizerConfig, make_optimizer
from dbjax.partition import Partition, PartitionConfig, make_partition
from dbjax.task import DenoisingTask, Estimate, Task
from dbjax.training import BlockState, Trainer

WIDTH = 8


def linear(n_in: int, n_out: int, rngs: nnx.Rngs, **settings: Any) -> nnx.Linear:
    """An affine map whose initialisation compiles fast, unlike the usual truncated normal."""
    kernel_init = nnx.initializers.uniform(0.5)
    return nnx.Linear(n_in, n_out, kernel_init=kernel_init, rngs=rngs, **settings)


class Residual(nnx.Module):
    """h + W2 tanh(W1 h + c): the smallest layer that uses what a stack offers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.up = linear(WIDTH, WIDTH, rngs)
        self.down = linear(WIDTH, WIDTH, rngs)

    def __call__(self, h: jax.Array, c: jax.Array) -> jax.Array:
        return h + self.down(jnp.tanh(self.up(h) + c))


def toy_network(depth: int, *, num_classes: int = 0) -> ResidualStack:
    """`depth` residual layers on points in the plane."""
    rngs = nnx.Rngs(0)
    return ResidualStack(
        [Residual(rngs) for _ in range(depth)],
        embed=linear(2, WIDTH, rngs),
        head=linear(WIDTH, 2, rngs),
        sample_shape=(2,),
        num_classes=num_classes,
    )


def toy_task(
    layers: tuple[int, ...] = (1, 1, 1), *, num_classes: int = 0, **settings: Any
) -> DenoisingTask:
    """Denoising of points in the plane with the given layers in each block."""
    config = PartitionConfig(len(layers), layers=layers)
    noise = LogNormalNoise()
    return DenoisingTask(
        toy_network(sum(layers), num_classes=num_classes),
        noise,
        make_partition(config, noise, sum(layers)),
        image_shape=(2,),
        num_classes=num_classes,
        **settings,
    )


class TaskStub:
    """Points in the plane; a fake task overrides what its test is about."""

    noise = LogNormalNoise()

    def init(self, key: jax.Array, block: int) -> dict[str, Any]:
        raise NotImplementedError

    def loss(self, params: Any, batch: Any, interval: Any, key: Any, *, remat: bool = False) -> Any:
        raise NotImplementedError

    def prior(self, key: jax.Array, num_samples: int) -> jax.Array:
        return self.noise.prior(key, (num_samples, 2))

    def denoise(
        self, params: Any, z: Any, level: Any, condition: Any = None, *, guidance: float = 1.0
    ) -> Estimate:
        raise NotImplementedError

    def decode(self, z: jax.Array) -> jax.Array:
        return z


@dataclasses.dataclass(frozen=True, eq=False)
class PlainTask(TaskStub):
    """The least that trainer and placements can train; compiles many times faster than denoising.

    The loss depends on everything a block is handed: interface, layers, batch, interval and key.
    Layers measure the mean of what they see.
    """

    layers: tuple[int, ...] = (1, 1, 1)

    @property
    def partition(self) -> Partition:
        config = PartitionConfig(len(self.layers), layers=self.layers)
        return make_partition(config, self.noise, sum(self.layers))

    def init(self, key: jax.Array, block: int) -> dict[str, Any]:
        def matrix(*name: int) -> jax.Array:
            return jnp.asarray(np.random.default_rng(name).normal(size=(2, 2)), jnp.float32)

        layers = tuple(matrix(1, i) for i in self.partition.layers[block])
        return {
            "interface": {"embed": matrix(2), "head": matrix(3)},
            "layers": layers,
            "statistics": tuple(jnp.zeros(2) for _ in layers),
        }

    def loss(self, params: Any, batch: Any, interval: Any, key: Any, *, remat: bool = False) -> Any:
        x = batch["image"]
        h = x + (1 + interval[0]) * jax.random.uniform(key, x.shape)
        h = h @ params["interface"]["embed"]
        for layer in params["layers"]:
            h = h + jnp.tanh(h @ layer)
        loss = jnp.mean((h @ params["interface"]["head"] - x) ** 2)
        mean = jnp.mean(h, axis=0)
        seen = tuple((0.9 * old + 0.1 * mean).astype(old.dtype) for old in params["statistics"])
        return loss, {"loss": loss, "statistics": seen}


def toy_trainer(
    task: Task | None = None, *, num_steps: int = 40, seed: int = 0, **optimizer: Any
) -> Trainer:
    """A trainer of the plain task, or of `task`, with an average and moving fast."""
    config = OptimizerConfig(**{"learning_rate": 1e-2, "ema_decay": 0.9, **optimizer})
    return Trainer(
        PlainTask() if task is None else task,
        make_optimizer(config, num_steps),
        config.ema_decay,
        seed,
    )


class ToyStream:
    """Batches that depend on (block, position) alone."""

    def __init__(self, block: int, position: int = 0, batch_size: int = 4) -> None:
        self._block = block
        self._position = position
        self._batch_size = batch_size

    def take(self, num_batches: int) -> dict[str, np.ndarray]:
        positions = range(self._position, self._position + num_batches)
        self._position += num_batches
        rows = [np.random.default_rng((self._block, p)) for p in positions]
        return {
            "image": np.stack([r.normal(size=(self._batch_size, 2)) for r in rows]).astype("f4"),
            "label": np.stack([r.integers(3, size=self._batch_size) for r in rows]).astype("i4"),
        }

    def state(self) -> dict[str, Any]:
        return {"position": self._position}

    def restore(self, state: dict[str, Any]) -> None:
        self._position = state["position"]


def toy_batch(block: int = 0, position: int = 0) -> dict[str, jax.Array]:
    """One batch of a `ToyStream`, as a step takes it."""
    return {name: jnp.asarray(x[0]) for name, x in ToyStream(block, position).take(1).items()}


def memory_kinds(state: BlockState) -> set[str | None]:
    """Where the arrays of a state are."""
    shardings: list[Sharding] = [leaf.sharding for leaf in jax.tree.leaves(state)]
    return {sharding.memory_kind for sharding in shardings}


def same(a: Any, b: Any) -> bool:
    """Whether two trees agree bit for bit."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(x, y) for x, y in leaves
    )


def distance(a: Any, b: Any) -> float:
    """Largest absolute difference between two trees of one structure; NaN counts as infinite."""
    gaps = jax.tree.map(lambda x, y: np.max(np.abs(np.asarray(x) - np.asarray(y))), a, b)
    largest = np.max(np.stack(jax.tree.leaves(gaps)))
    return float("inf") if np.isnan(largest) else float(largest)


def relative_distance(a: Any, b: Any) -> float:
    """Largest |a - b| of any array of the trees, relative to the largest number in that array."""

    def gap(x: Any, y: Any) -> float:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return float(np.max(np.abs(x - y)) / max(np.max(np.abs(x)), np.max(np.abs(y)), 1e-30))

    gaps = jax.tree.leaves(jax.tree.map(gap, a, b))
    return max(float("inf") if np.isnan(g) else g for g in gaps)


def shaken(params: Any, key: jax.Array, size: float = 0.4) -> Any:
    """Parameters with noise on them, so that none is zero and everything that can matter does."""
    # Not by jax, which would compile a program for every shape.
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jax.tree.map(lambda x: (x + size * rng.normal(size=x.shape)).astype(x.dtype), params)
