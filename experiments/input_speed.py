"""Whether input holds up training, and which side should augment: the host or the device.

Measures, for one block of a config at its own batch size:
  - seconds of a step with batches that lie on the device already, and of a step of the real loop
    (reading, augmentation, transfer and update, dispatch running ahead), in turn;
  - how long the loop was blocked in `stream.take`, part of which the device may have been busy;
  - images a second of the stream alone, with each augmentation on and off, and of the same
    augmentations compiled for the device.
Where the CPU is the device, host and device share its cores and less can be hidden.
"""

import dataclasses
import functools
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from dbjax.build import Setup, build
from dbjax.config import load_config
from dbjax.data import DataConfig, Dataset, make_stream
from dbjax.data.augment import list_operations
from dbjax.data.image_sets import IMAGE_SETS
from dbjax.data.registry import DATASETS
from dbjax.devices import to_device
from dbjax.errors import require
from dbjax.placement import PlacementConfig, make_placement
from dbjax.task import Batch
from dbjax.training import BlockState, Chunk, Placement, Stream
from experiments import cli
from experiments.provenance import provenance

REPEATS = 7
"""Turns of each thing that is measured, of which the median is reported; 3 where they are long."""

# More steps than any measurement takes.
_NEVER = 2**30

K = TypeVar("K")
Images = UInt8[Array, "batch height width channels"]


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("input_speed", __doc__ or "")
    parser.add_argument("--config", metavar="FILE", required=True, help="config of the blocks")
    parser.add_argument("--block", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="S",
        help="to measure for, besides compiling; default: 20",
    )  # fmt: skip
    parser.add_argument("--out", "--output", type=Path, metavar="FILE", help="JSON to write")
    args, overrides = cli.parse(parser, arguments)
    require(0 < args.seconds < float("inf"), "--seconds", args.seconds, "more than 0")
    if args.out is not None:
        require(not args.out.is_dir(), "--out", str(args.out), "a file, not a folder")
    setup = build(load_config(args.config, overrides))
    allowed = "one that learns images: text is not augmented"
    require(isinstance(setup.data, DataConfig), "family", setup.config.family, allowed)
    last = setup.task.partition.num_blocks - 1
    require(0 <= args.block <= last, "--block", args.block, f"0 to {last}")
    found = measure(setup, args.block, args.seconds)
    print(describe(found))
    if args.out is not None:
        result = {**found, "config": setup.config.to_dict(), "provenance": provenance()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(setup: Setup, block: int, seconds: float) -> dict[str, Any]:
    """What the program writes, besides config and provenance.

    Args:
        setup: of the config.
        block: its number.
        seconds: to spend, half of it on steps, half on images a second.
    """
    step = seconds_per_step(setup, block, seconds / 2)
    size = setup.data.batch_size
    return {
        "block": block,
        "batch_size": size,
        "steps_per_dispatch": setup.placement.steps_per_dispatch,
        "seconds_per_step": step,
        "input_share": step["loop"] / step["compute"] - 1,
        "input_share_processor": step["loop_processor"] / step["compute_processor"] - 1,
        "blocked_share": step["blocked_in_take"] / step["loop"],
        "device_needs_images_per_second": size / step["compute"],
        "images_per_second": images_per_second(setup, block, seconds / 2),
    }


def seconds_per_step(setup: Setup, block: int, seconds: float) -> dict[str, float]:
    """Medians over turns of `compute` and `loop`, seconds of a step of a block.

    Also of each one's `_processor`, seconds of all cores together: where the CPU is the device,
    other programs on the machine hardly move them. `blocked_in_take` is a part of `loop`.
    """
    stream = TimedStream(make_stream(setup.dataset, setup.data, seed=0, block=block))
    here = HeldStream(stream.take(setup.placement.steps_per_dispatch))
    init = jax.jit(setup.trainer.init, static_argnums=0)
    dispatches = {
        "compute": place(setup, {block: init(block)}, {block: here}).advance(_NEVER),
        "loop": place(setup, {block: init(block)}, {block: stream}).advance(_NEVER),
    }
    once = sum(_time_dispatches(chunks, stream, 1)[0] for chunks in dispatches.values())
    # Two more dispatches than are timed fill and drain.
    number = max(round(seconds / REPEATS / once) - 2, 1)
    repeats = min(max(round(seconds / once / (number + 2)), 3), REPEATS)
    taken: dict[str, list[Any]] = {name: [] for name in dispatches}
    for _, (name, chunks) in itertools.product(range(repeats), dispatches.items()):
        taken[name].append(_time_dispatches(chunks, stream, number))
    median = {
        name: np.median(each, axis=0) / setup.placement.steps_per_dispatch
        for name, each in taken.items()
    }
    return {
        "compute": float(median["compute"][0]),
        "loop": float(median["loop"][0]),
        "blocked_in_take": float(median["loop"][2]),
        "compute_processor": float(median["compute"][1]),
        "loop_processor": float(median["loop"][1]),
    }


class TimedStream:
    """A stream that adds up the `seconds` for which `take` kept its caller."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.seconds = 0.0

    def take(self, count: int) -> Batch:
        start = time.perf_counter()
        batches = self._stream.take(count)
        self.seconds += time.perf_counter() - start
        return batches

    def state(self) -> dict[str, Any]:
        return self._stream.state()

    def restore(self, state: dict[str, Any]) -> None:
        self._stream.restore(state)


class HeldStream:
    """A stream of the same batches again and again, which lie on the device."""

    def __init__(self, batches: Batch) -> None:
        self._batches = jax.block_until_ready(to_device(batches))

    def take(self, count: int) -> Batch:
        assert count == len(self._batches["label"])
        return self._batches

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def place(
    setup: Setup, states: Mapping[int, BlockState], streams: Mapping[int, Stream]
) -> Placement:
    """A placement of one block, which therefore never leaves the device."""
    config: PlacementConfig = dataclasses.replace(
        setup.placement,
        name="sequential",
        interface="owned",
        # Of no effect on one block; left open, it would be measured, which waits for each dispatch.
        steps_per_visit=setup.placement.steps_per_dispatch,
    )
    return make_placement(config, setup.trainer, states, streams)


def _time_dispatches(
    chunks: Iterator[Chunk], stream: TimedStream, number: int
) -> tuple[float, float, float]:
    """Of a dispatch in the middle of training: seconds, processor's seconds, and in `stream.take`.

    As in training, a chunk is looked at once the next one is on its way. The clock runs from the
    end of one dispatch to the end of another, so that neither filling nor draining counts.
    """
    pending = next(chunks)
    begin = clocks = (0.0, 0.0, 0.0)
    for i in range(number + 1):
        following = next(chunks)
        jax.block_until_ready(pending.metrics)
        pending = following
        clocks = (time.perf_counter(), time.process_time(), stream.seconds)
        if i == 0:
            begin = clocks
    jax.block_until_ready(pending.metrics)
    wall, processor, blocked = ((b - a) / number for a, b in zip(begin, clocks, strict=True))
    return wall, processor, blocked


def images_per_second(setup: Setup, block: int, seconds: float) -> dict[str, dict[str, float]]:
    """Of each choice of augmentations, in turn: of the stream and compiled for the device.

    Returns:
        For each choice, images a second of the stream (`host`), of it for each second of
        processor time (`host_core`), and on the device (`device`) where there is something to do.
    """
    kinds = augmentations(setup.data)
    programs: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, config in kinds.items():
        stream = make_stream(setup.dataset, config, seed=0, block=block)
        programs[name, "host"] = functools.partial(next, stream)
        if name != "none":
            programs[name, "device"] = _on_device(setup.dataset, config)
    size = setup.data.batch_size * setup.data.views
    rates: dict[str, dict[str, float]] = {name: {} for name in kinds}
    for (name, side), (wall, processor) in _in_turn(programs, seconds).items():
        rates[name][side] = size / wall
        if side == "host":
            rates[name]["host_core"] = size / processor
    return rates


def augmentations(config: DataConfig) -> dict[str, DataConfig]:
    """Each augmentation that the data allow alone, none, and all; as in `config` where it is on."""
    plain = dataclasses.replace(config, crop=0, flip=False, rand_augment=0)
    changes: dict[str, dict[str, Any]] = {}
    if DATASETS[config.name].flippable:
        changes |= {"crop": {"crop": config.crop or 4}, "flip": {"flip": True}}
    if config.name in IMAGE_SETS:
        changes["rand_augment"] = {"rand_augment": config.rand_augment or 2}
    if changes:
        changes["all"] = functools.reduce(lambda left, right: left | right, changes.values())
    return {"none": plain} | {k: dataclasses.replace(plain, **v) for k, v in changes.items()}


def _in_turn(
    programs: Mapping[K, Callable[[], Any]], seconds: float
) -> dict[K, tuple[float, float]]:
    """Median seconds of a call of each program, and of processor time, run in turn."""
    share = seconds / REPEATS / len(programs)
    for program in programs.values():
        jax.block_until_ready(program())
    taken: dict[K, list[tuple[float, float]]] = {name: [] for name in programs}
    for _, (name, program) in itertools.product(range(REPEATS), programs.items()):
        # What a stream has read ahead while others had their turn would look like speed.
        for _ in range(4):
            jax.block_until_ready(program())
        begin, busy, calls = time.perf_counter(), time.process_time(), 0
        while (wall := time.perf_counter() - begin) < share or calls == 0:
            jax.block_until_ready(program())
            calls += 1
        taken[name].append((wall / calls, (time.process_time() - busy) / calls))
    return {
        name: (statistics.median(w for w, _ in each), statistics.median(p for _, p in each))
        for name, each in taken.items()
    }


# --- augmentation on the device -------------------------------------------------------------------


def _on_device(dataset: Dataset, config: DataConfig) -> Callable[[], Any]:
    """A program that augments a batch that lies on the device, with other draws at each call."""
    batch = dataset.source.read(np.arange(config.batch_size) % len(dataset.source))
    images = jax.device_put(np.repeat(batch["image"], config.views, axis=0))
    program = jax.jit(functools.partial(augment, config=config))
    numbers = itertools.count()
    return lambda: program(images, jax.random.key(next(numbers)))


def augment(images: Images, key: Key[Array, ""], *, config: DataConfig) -> Images:
    """What the stream does to images, in the same order, with draws of its own.

    Args:
        images: 8-bit where there is RandAugment, else of any type.
        key: of all draws.
        config: which augmentations.
    """
    keys = jax.random.split(key, 3)
    if config.crop:
        images = crop(images, keys[0], padding=config.crop)
    if config.flip:
        chosen = jax.random.bernoulli(keys[1], shape=(len(images), 1, 1, 1))
        images = jnp.where(chosen, images[:, :, ::-1], images)
    if config.rand_augment:
        number = 2 * len(_Operations.NAMES)
        drawn = jax.random.randint(keys[2], (config.rand_augment, len(images)), 0, number)
        operations = _Operations(config.rand_augment_magnitude, *images.shape[1:3])
        for each in drawn:
            images = operations(images, each)
    return images


def crop(images: Images, key: Key[Array, ""], *, padding: int) -> Images:
    """Shifts each image by up to `padding` pixels in each direction; zeros move in."""
    padded = jnp.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * padding + 1)

    def cut(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(cut)(padded, corners)


class _Operations:
    """RandAugment's operations on a whole batch, each image its own.

    Every image goes through one gather of pixels, one table of levels and one blend with another
    image; its operation says with which. Tables that do not depend on the image are read off the
    host's operations.
    """

    NAMES = (
        *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness"),
        *("color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
    )

    def __init__(self, magnitude: int, height: int, width: int) -> None:
        operations = list_operations(magnitude, height, width)
        places = np.arange(1, height * width + 1)
        levels = np.arange(256, dtype=np.uint8)
        self.source = np.tile(places, (len(operations), 1))
        self.table = np.tile(levels, (len(operations), 1))
        self.factor = np.ones(len(operations), np.float32)
        for i, operation in enumerate(operations):
            name = self.NAMES[i % len(self.NAMES)]
            if name.startswith(("shear", "translate", "rotate")):
                self.source[i] = operation(places.reshape(1, 1, height, width)).reshape(-1)
            elif name in ("brightness", "posterize", "solarize"):
                self.table[i] = operation(levels.reshape(1, 1, 16, 16)).reshape(-1)
            elif name in ("color", "contrast", "sharpness"):
                sign = 1 if i < len(self.NAMES) else -1
                self.factor[i] = 1 + sign * 0.9 * magnitude / 30

    def __call__(self, images: Images, drawn: Int[Array, " batch"]) -> Images:
        """Image i through operation `drawn[i]` of `list_operations`."""
        planes = jnp.moveaxis(images, -1, 1)
        flat = planes.reshape(*planes.shape[:2], -1)
        black = jnp.pad(flat, [(0, 0), (0, 0), (1, 0)])
        flat = jnp.take_along_axis(black, jnp.asarray(self.source)[drawn][:, None], axis=2)

        def is_(name: str) -> Array:
            return (drawn % len(self.NAMES) == self.NAMES.index(name))[:, None, None]

        table = jnp.asarray(self.table)[drawn][:, None]
        table = jnp.where(is_("autocontrast"), _autocontrast(flat), table)
        table = jnp.where(is_("equalize"), _equalize(flat), table)
        flat = jnp.take_along_axis(table, flat.astype(jnp.int32), axis=2)

        grey = _grey(flat)
        mean = jnp.floor(grey.mean(axis=(1, 2), keepdims=True) + 0.5)
        other = jnp.where(is_("color"), grey, _smooth(flat.reshape(planes.shape)))
        other = jnp.where(is_("contrast"), mean, other)
        factor = jnp.asarray(self.factor)[drawn][:, None, None]
        mixed = jnp.clip(other + factor * (flat - other), 0, 255).astype(jnp.uint8)
        return jnp.moveaxis(mixed.reshape(planes.shape), 1, -1)


def _grey(flat: UInt8[Array, "batch channels pixels"]) -> Float[Array, "batch 1 pixels"]:
    if flat.shape[1] == 1:
        return flat.astype(jnp.float32)
    weights = jnp.array([19595, 38470, 7471])[:, None]
    wide = (flat * weights[None]).sum(axis=1, keepdims=True)
    return (wide + 0x8000 >> 16).astype(jnp.float32)


def _smooth(planes: UInt8[Array, "b c height width"]) -> Float[Array, "b c pixels"]:
    """Mean of a pixel and its neighbours, itself five times; borders stay."""
    wide = planes.astype(jnp.int32)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    inner = wide[:, :, 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner
    smooth = wide.at[:, :, 1:-1, 1:-1].set((total + 6) // 13)
    return smooth.reshape(*planes.shape[:2], -1).astype(jnp.float32)


def _autocontrast(flat: UInt8[Array, "batch channels pixels"]) -> UInt8[Array, "batch channels _"]:
    """A table for each channel of each image."""
    low, high = (f(axis=2, keepdims=True).astype(jnp.int32) for f in (flat.min, flat.max))
    levels = jnp.arange(256)[None, None]
    spread = high - low
    # In whole numbers, where the host rounds products of floats down.
    table = jnp.clip((levels - low) * 255 // jnp.maximum(spread, 1), 0, 255)
    return jnp.where(spread > 0, table, levels).astype(jnp.uint8)


def _equalize(flat: UInt8[Array, "batch channels pixels"]) -> UInt8[Array, "batch channels _"]:
    """A table for each channel of each image."""
    count = jax.vmap(jax.vmap(functools.partial(jnp.bincount, length=256)))(flat)
    brightest = jnp.take_along_axis(count, flat.max(axis=2, keepdims=True).astype(int), axis=2)
    step = (flat.shape[2] - brightest) // 255
    below = jnp.cumsum(count, axis=2) - count
    table = jnp.minimum((step // 2 + below) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, jnp.arange(256)[None, None]).astype(jnp.uint8)


# --------------------------------------------------------------------------------------------------


def describe(found: dict[str, Any]) -> str:
    """Steps, then a table of images a second."""
    step, needs = found["seconds_per_step"], found["device_needs_images_per_second"]
    lines = [
        f"a step of block {found['block']} on {found['batch_size']} examples, on the device: "
        f"{step['compute'] * 1e3:.2f} ms",
        f"a step of the loop with its input:  {step['loop'] * 1e3:.2f} ms "
        f"({found['input_share']:+.1%}; {found['input_share_processor']:+.1%} of processor time), "
        f"of it blocked in stream.take "
        f"{step['blocked_in_take'] * 1e3:.2f} ms ({found['blocked_share']:.1%})",
        f"the device takes in {needs:,.0f} images/s",
        "",
        f"{'images/s':14}{'stream':>12}{'a core':>12}{'of need':>9}{'device':>12}",
    ]
    for name, rates in found["images_per_second"].items():
        host, device = rates["host"], rates.get("device")
        lines.append(
            f"{name:14}{host:12,.0f}{rates['host_core']:12,.0f}{host / needs:9.1f}"
            + ("" if device is None else f"{device:12,.0f}")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
