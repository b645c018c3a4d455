"""A run in one call: train the blocks of a task, resume, and sample from them."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from dbjax import keys
from dbjax.checkpoint import Checkpoints, abstract
from dbjax.data import DataConfig, Dataset, TextConfig, in_memory_dataset, make_stream
from dbjax.devices import host_memory, to_host
from dbjax.distributed import wait_for_all_processes
from dbjax.errors import SettingError, require
from dbjax.loop import train
from dbjax.monitor import Journal, Monitor
from dbjax.noise import LogNormalNoise
from dbjax.optimizer import OptimizerConfig, make_optimizer
from dbjax.partition import PartitionConfig, make_partition
from dbjax.placement import PlacementConfig, held_blocks, holders, make_placement
from dbjax.sampling import Sampler, Samples, SamplingConfig, Trajectory
from dbjax.task import DenoisingTask, Network, Params, Task
from dbjax.training import BlockState, Trainer
from dbjax.workdir import hold


@dataclasses.dataclass(frozen=True)
class Model:
    """Trained blocks, ready to sample.

    Attributes:
        task: what they were trained for.
        blocks: weights of each block; on the host until a block's turn comes.
        steps: each block's own steps of training.
    """

    task: Any
    blocks: Mapping[int, Params]
    steps: Mapping[int, int]

    def sample(
        self,
        num_samples: int,
        *,
        label: Int[np.ndarray, " samples"] | None = None,
        start: np.ndarray | None = None,
        sampler: Sampler | None = None,
        seed: int = 0,
        progress: Callable[[int], object] = lambda count: None,
    ) -> np.ndarray:
        """[num_samples, ...] samples in the raw units of the data.

        Args:
            num_samples: how many.
            label: class of each, for conditional models.
            start: [num_samples, ...] z at u = 0 in place of a draw from the prior: texts with
                masked tokens to fill in.
            sampler: grid, steps, solver, guidance; None is `Sampler(task, SamplingConfig())`, for
                Gaussian noise.
            seed: of the starting noise.
            progress: told the number of samples after each batch.

        Raises:
            SettingError: if the labels are not `num_samples` classes of the task.
        """
        sampler = sampler or Sampler(self.task, SamplingConfig())
        label = self._check_labels(label, num_samples)
        size = min(sampler.batch_size, num_samples)
        done: list[np.ndarray] = []
        for first in range(0, num_samples, size):
            # Every batch is drawn at full size, so that one compiled program serves them all.
            index = np.arange(first, first + size) % num_samples
            condition = None if label is None else label[index]
            drawn = sampler(
                self.blocks,
                keys.derive(seed, "sample", first),
                size,
                condition,
                start=None if start is None else jnp.asarray(start[index]),
            )
            done.append(np.asarray(self.task.decode(drawn.clean))[: num_samples - first])
            progress(len(done[-1]))
        return np.concatenate(done)

    def path(
        self,
        num_samples: int,
        *,
        label: Int[np.ndarray, " samples"] | None = None,
        sampler: Sampler | None = None,
        seed: int = 0,
    ) -> Trajectory:
        """How samples came to be: noisy data and estimate at each step, in raw units."""
        path = self.walk(num_samples, label=label, sampler=sampler, seed=seed).path
        assert path is not None
        return path._replace(z=self.task.decode(path.z), clean=self.task.decode(path.clean))

    def walk(
        self,
        num_samples: int,
        *,
        label: Int[np.ndarray, " samples"] | None = None,
        start: np.ndarray | None = None,
        sampler: Sampler | None = None,
        seed: int = 0,
    ) -> Samples:
        """Samples, drawn together, and the way to them, in the model's units.

        The arguments are those of `sample`.
        """
        sampler = sampler or Sampler(self.task, SamplingConfig())
        label = self._check_labels(label, num_samples)
        z = None if start is None else jnp.asarray(start)
        key = keys.derive(seed, "sample", 0)
        return sampler(self.blocks, key, num_samples, label, start=z, record=True)

    def _check_labels(self, label: Any, num_samples: int) -> np.ndarray | None:
        if label is None:
            return None
        label = np.asarray(label, np.int32)
        classes = getattr(self.task, "num_classes", 0)
        require(label.shape == (num_samples,), "shape of label", label.shape, f"({num_samples},)")
        allowed = f"classes 0 to {classes - 1}" if classes else "None: the model knows no classes"
        good = bool(np.all((label >= 0) & (label < classes)))
        require(good, "label", sorted({int(label.min()), int(label.max())}), allowed)
        return label


def run(
    trainer: Trainer,
    dataset: Dataset,
    data: DataConfig | TextConfig,
    placement: PlacementConfig,
    *,
    steps: int,
    blocks: Sequence[int] | None = None,
    start: Mapping[int, Params] | None = None,
    log_every: int = 50,
    save_every: int | None = None,
    workdir: Path | None = None,
    title: str = "train",
    show: bool = True,
    should_stop: Callable[[], bool] = lambda: False,
) -> Model:
    """Trains blocks to `steps` of their own steps, continuing what `workdir` holds.

    With `jax.distributed` every process calls this alike, and `workdir` is a folder they all see.

    Args:
        trainer: task, optimizer and seed.
        dataset: the examples.
        data: batch size and augmentation.
        placement: where blocks live.
        steps: of each block, counted from its beginning.
        blocks: which to train; None is all of them. Processes that train different blocks may run
            at the same time, in one workdir too.
        start: weights that blocks without a checkpoint begin with, in place of fresh ones.
        log_every: steps between rows of the journal.
        save_every: steps between checkpoints; None saves at the end only.
        workdir: where checkpoints and metrics go; None keeps nothing.
        title: first word of the progress bar.
        show: whether to draw one.
        should_stop: see `dbjax.loop.train`.

    Returns:
        The model as far as it was trained here.

    Raises:
        SettingError: if a checkpoint does not fit, or another process trains one of the blocks.
        Diverged: if a loss is no longer finite.
    """
    num_blocks = trainer.task.partition.num_blocks
    blocks = list(range(num_blocks)) if blocks is None else sorted(blocks)
    shared = placement.interface == "shared"
    if shared and len(blocks) < num_blocks:
        raise SettingError(
            f"placement.interface is 'shared' and only blocks {', '.join(map(str, blocks))} are "
            "trained; allowed: all blocks together, or an interface that is 'owned' or 'frozen'"
        )
    held = held_blocks(placement, blocks)
    with contextlib.ExitStack() as resources:
        checkpoints, saved = None, {}
        if workdir is not None:
            resources.enter_context(hold(workdir, [b for b, speaks in held.items() if speaks]))
            processes = holders(placement, blocks)
            checkpoints = Checkpoints(workdir / "checkpoints", processes=processes)
            resources.callback(checkpoints.close)
            saved = checkpoints.resume_steps(blocks, together=shared)
            # None of them may save before all have seen where the run stands.
            wait_for_all_processes("resume")
        at = dict.fromkeys(blocks, 0) | saved
        streams = {b: make_stream(dataset, data, seed=trainer.seed, block=b) for b in held}
        states = {}
        for b in held:
            if b in saved:
                assert checkpoints is not None
                states[b], position = checkpoints.restore(b, at[b], _shape(trainer, b))
                streams[b].restore(position)
            else:
                states[b] = _begin(trainer, b, (start or {}).get(b))
        place = make_placement(placement, trainer, states, streams, steps=at)
        del states
        journals = {}
        if workdir is not None:
            journals = {b: Journal(workdir, b, at[b]) for b, speaks in held.items() if speaks}
            for journal in journals.values():
                resources.callback(journal.close)
        monitor = Monitor(
            {b: at[b] for b in held},
            steps,
            batch_size=data.batch_size,
            log_every=log_every,
            journals=journals,
            title=title,
            unit=dataset.info.unit,
            show=show and jax.process_index() == 0,
        )
        resources.callback(monitor.close)

        def save() -> None:
            # A state is saved only when its losses are known to be finite.
            monitor.flush()
            if checkpoints is not None:
                checkpoints.save(
                    {b: (place.state(b), streams[b].state()) for b in held},
                    snapshot={b: place.step(b) for b in blocks} if shared else None,
                )

        train(
            place,
            blocks,
            steps,
            save_every=save_every or steps,
            save=save,
            watch=monitor,
            should_stop=should_stop,
        )
    return _model(trainer.task, {b: place.state(b) for b in held})


def load(trainer: Trainer, workdir: Path, *, shared: bool = False) -> Model:
    """The blocks a run has saved last.

    Raises:
        SettingError: if a block is missing or does not fit.
    """
    blocks = range(trainer.task.partition.num_blocks)
    states = {}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        steps = checkpoints.resume_steps(list(blocks), together=shared)
        missing = [b for b in blocks if b not in steps]
        if missing:
            raise SettingError(
                f"{workdir} has no checkpoint of block {', '.join(map(str, missing))}; "
                "train it first with experiments.train"
            )
        for b in blocks:
            like = _shape(trainer, b)
            states[b], _ = checkpoints.read(b, steps[b], like)
    return _model(trainer.task, states)


def make_task(
    network: Network,
    images: np.ndarray,
    *,
    num_blocks: int = 3,
    layers: tuple[int, ...] | None = None,
    overlap: float = 0.05,
    noise: LogNormalNoise | None = None,
    num_classes: int = 0,
) -> DenoisingTask:
    """Cuts `network` into blocks that denoise data like `images`.

    Args:
        network: a `ResidualStack` of your modules, or a network of `dbjax.families`.
        images: [size, ...] data in raw units; shape, mean and standard deviation are read off it.
        num_blocks: B; 1 is end-to-end training.
        layers: layers of each block, noisiest first; None shares them evenly.
        overlap: see `PartitionConfig`.
        noise: training noise; None is the usual for images.
        num_classes: of the labels that condition the network; 0 for none.

    Raises:
        SettingError: if the layers cannot be shared out as asked.
    """
    noise = noise or LogNormalNoise()
    partition = PartitionConfig(num_blocks=num_blocks, layers=layers, overlap=overlap)
    return DenoisingTask(
        network,
        noise,
        make_partition(partition, noise, network.depth),
        image_shape=images.shape[1:],
        num_classes=num_classes,
        mean=float(images.mean()),
        std=float(images.std()),
    )


def fit(
    task: DenoisingTask,
    images: np.ndarray,
    labels: Int[np.ndarray, " size"] | None = None,
    *,
    steps: int,
    batch_size: int = 128,
    optimizer: OptimizerConfig | None = None,
    placement: PlacementConfig | None = None,
    seed: int = 0,
    show: bool = True,
) -> Model:
    """Trains the blocks of `task` on arrays, in one call.

    Args:
        task: see `make_task`.
        images: [size, *task.image_shape] in raw units.
        labels: class of each, for conditional tasks.
        steps: of each block.
        batch_size: examples in a step.
        optimizer: AdamW's settings.
        placement: where blocks live while they train.
        seed: root of every random draw.
        show: whether to draw a progress bar.
    """
    given = "None" if labels is None else f"{len(labels)} labels"
    needed = f"{len(images)} of them" if task.num_classes else "None: the task knows no classes"
    fits = (
        labels is None
        if not task.num_classes
        else labels is not None and len(labels) == len(images)
    )
    require(fits, "labels", given, needed)
    optimizer = optimizer or OptimizerConfig(learning_rate=1e-3)
    dataset = in_memory_dataset(
        "arrays",
        images,
        np.zeros(len(images), np.int32) if labels is None else labels,
        num_classes=task.num_classes,
        mean=task.mean,
        std=task.std,
        max_value=None,
    )
    trainer = Trainer(task, make_optimizer(optimizer, steps), optimizer.ema_decay, seed)
    data = DataConfig(batch_size=batch_size)
    placement = placement or PlacementConfig()
    return run(trainer, dataset, data, placement, steps=steps, show=show)


def _model(task: Task, states: Mapping[int, BlockState]) -> Model:
    return Model(
        task,
        {b: state.weights for b, state in states.items()},
        {b: int(state.step) for b, state in states.items()},
    )


def _begin(trainer: Trainer, block: int, params: Params | None) -> BlockState:
    """The block before its first step, on the host."""
    if params is None:
        return to_host(jax.jit(trainer.init, static_argnums=0)(block))
    return to_host(jax.jit(trainer.begin)(params))


def _shape(trainer: Trainer, block: int) -> BlockState:
    """What a checkpoint of the block must look like; it is restored to the host."""
    return abstract(jax.eval_shape(functools.partial(trainer.init, block)), host_memory())
