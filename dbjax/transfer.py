"""Beginning a run with the blocks of another, which may be cut otherwise.

Blocks with the same noise and as many layers can be kept, the others are trained from the old
weights of their layers. To replace a block by one that is trained from the beginning, train it in a
folder of its own and assemble the two runs (`dbjax.assembly`).
"""

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from dbjax.build import Setup, build
from dbjax.catalogue import FAMILIES, Plain
from dbjax.checkpoint import Checkpoints, abstract
from dbjax.config import config_differences
from dbjax.data import make_stream
from dbjax.devices import host_memory
from dbjax.errors import SettingError, require
from dbjax.parts import Origin, gather, regroup, span
from dbjax.settings import SECTIONS
from dbjax.task import Params
from dbjax.training import BlockState, Trainer
from dbjax.workdir import hold, read_config


@dataclasses.dataclass(frozen=True)
class Transfer:
    """How a run begins with blocks of another.

    Attributes:
        source: the folder of the other run.
        old: the other run.
        new: the run that begins.
        origins: of each of its blocks.
        trained: its blocks that are trained; all others are kept as they are.
        steps: of each old block that has a checkpoint, the one that is read.
        plain: what the old network is to the new one's family, where it is not of that itself.
    """

    source: Path
    old: Setup
    new: Setup
    origins: tuple[Origin, ...]
    trained: tuple[int, ...]
    steps: Mapping[int, int]
    plain: Plain | None = None

    def table(self) -> str:
        """A line for each new block: layers, levels, where its weights come from, what is done."""
        partition, noise = self.new.task.partition, self.new.task.noise
        rows = [("block", "layers", noise.level_name, f"weights from {self.source}", "")]
        for b, origin in enumerate(self.origins):
            noisy, clean = (noise.level(u) for u in partition.edges[b : b + 2])
            owned = f"{clean:.3g}-{noisy:.3g}"
            layers = partition.layers[b]
            kept = f"kept, step {self.steps[origin.interface]}"
            done = "trained" if b in self.trained else kept
            rows.append((str(b), span(layers), owned, origin.describe(layers), done))
        table = columns(rows)
        if self.plain is not None:
            new, old = (_shape(setup.trainer, 0).params for setup in (self.new, self.old))
            drawn = (
                f"{', '.join(sorted(set(new[part]) - set(old[part])))} of {part}"
                for part in ("interface", "layers")
            )
            table += f"\nNew in every block, as drawn from the seed: {'; '.join(drawn)}"
        return table

    def begin(self, workdir: Path) -> dict[int, Params]:
        """Takes kept blocks over into `workdir`, which was claimed, unless they are there.

        Returns:
            The weights that trained blocks without a checkpoint there begin with.

        Raises:
            SettingError: if a checkpoint does not fit, or another process is doing the same.
        """
        record = _record(workdir)
        temporary = record.with_suffix(".tmp")
        temporary.write_text(json.dumps(_entry(self.source, self.trained)))
        os.replace(temporary, record)
        start = {}
        with (
            hold(workdir, range(len(self.origins))),
            Checkpoints(self.source / "checkpoints") as there,
            Checkpoints(workdir / "checkpoints") as here,
        ):

            @functools.cache
            def read(block: int) -> BlockState:
                return there.read(block, self.steps[block], _shape(self.old.trainer, block))[0]

            for b in range(len(self.origins)):
                if b in self.trained and not here.steps(b):
                    start[b] = self._weights(b, read)
                elif not here.steps(b):
                    self._keep(b, read, there, here, workdir)
        return start

    def _weights(self, block: int, read: Callable[[int], BlockState]) -> Params:
        origin, trainer = self.origins[block], self.new.trainer
        draw = jax.jit(lambda: trainer.init(block).params)
        # To draw a block costs compiling it.
        drawn = None in origin.layers or self.plain is not None
        fresh = draw() if drawn else jax.eval_shape(draw)
        old = {a: read(a).weights for a in origin.blocks}
        if self.plain is not None:
            adapt = self.plain.interface
            old = {
                a: {**weights, "interface": adapt(weights["interface"], fresh["interface"])}
                for a, weights in old.items()
            }
        return gather(origin, old, fresh)

    def _keep(
        self,
        block: int,
        read: Callable[[int], BlockState],
        there: Checkpoints,
        here: Checkpoints,
        workdir: Path,
    ) -> None:
        new, a = self.new, self.origins[block].interface
        data = there.data(a, self.steps[a])
        stream = make_stream(new.dataset, new.data, seed=new.trainer.seed, block=block)
        continued = {**stream.state(), "position": data["position"]}
        same_shape = _shape(self.old.trainer, a) == _shape(new.trainer, block)
        if same_shape and data == continued:
            copy_metrics(self.source, workdir, [block])
            there.copy({block: self.steps[a]}, here)
            return
        # With another number, seed or optimizer than before, the very files could be sampled from
        # but not be trained further.
        state = read(a)
        if not same_shape:
            begun = jax.jit(new.trainer.begin)(self._weights(block, read))
            state = dataclasses.replace(begun, step=state.step)
        here.save({block: (state, continued)})


def plan(
    new: Setup, workdir: Path, source: Path | None, blocks: Sequence[int] | None
) -> Transfer | None:
    """How the run `new` in `workdir` begins with blocks of the run in `source`; writes nothing.

    Args:
        new: the run.
        workdir: its folder, new or begun in this way before.
        source: the other run's; None begins with fresh blocks, and returns None.
        blocks: which to train; None is those that cannot be kept, or all without a `source`.

    Raises:
        SettingError: if the runs do not fit, a block can neither be kept nor is trained, there is
            nothing to train, a frozen interface would begin untrained, or `workdir` was begun
            otherwise.
    """
    every = range(new.task.partition.num_blocks)
    trained = tuple(every if blocks is None else blocks)
    here = Checkpoints(workdir / "checkpoints")
    lacking = [b for b in every if not here.steps(b)]
    if source is None:
        _check_begun(workdir, None, fine=not lacking)
        untrained = [b for b in lacking if b in trained]
        if new.placement.interface == "frozen" and untrained:
            raise SettingError(
                f"placement.interface is 'frozen' and block {listed(untrained)} would keep an "
                "interface that never was trained; allowed: --from=DIR of a run that has trained "
                "it, or 'owned'"
            )
        return None
    require(jax.process_count() == 1, "--from", str(source), "in a run of one process")
    context = new.config.partition.context
    require(context == "own", "partition.context", context, "'own' with --from")
    config = read_config(source)
    family = FAMILIES[new.config.family]
    plain = family.plain if family.plain and family.plain.family == config.family else None
    free = {"seed", "model.depth", *SECTIONS} - {"noise"}
    if plain is not None:
        free |= {"family", "noise", *family.sections}
        free |= {f"model.{name}" for name in plain.may_differ}
    differences = config_differences(config, new.config, ignore=free)
    if differences:
        differences.sort(key=lambda difference: not difference.startswith("family:"))
        raise SettingError(
            f"{source} is of another network or noise, {'; '.join(differences[:3])}; allowed: the "
            "same family, model (but for its depth) and noise"
            + (f", or such a model of {family.plain.family!r}" if family.plain else "")
        )
    if plain is not None:
        _check_noise_is_learned(new, config.family)
    if config.data.name == new.config.data.name:
        config.data.data_dir = new.config.data.data_dir
    old = build(config)
    there = old.dataset.info.kind
    for name, wanted in new.dataset.info.kind.items():
        found = there[name]
        require(found == wanted, f"{name} of the data of {source}", found, f"{wanted}, as here")
    origins = regroup(old.task.partition, new.task.partition)
    if plain is not None:
        origins = tuple(dataclasses.replace(origin, fits=False) for origin in origins)
    if blocks is None:
        name = new.placement.name
        require(name != "isolated", "--blocks", None, f"numbers, with --from in placement {name!r}")
        trained = tuple(b for b in every if not origins[b].fits)
        if not trained:
            raise SettingError(
                f"every block of {source} can be kept, so there is nothing to train; allowed: "
                "naming blocks to train, as --blocks=0"
            )
    kept = [b for b in every if b not in trained]
    unfit = [b for b in kept if not origins[b].fits]
    if unfit:
        raise SettingError(
            f"--blocks does not name block {listed(unfit)}, and {source} has no block of the same "
            "noise and number of layers to keep; allowed: naming all such blocks, or no --blocks"
        )
    if kept and new.placement.interface == "shared":
        raise SettingError(
            f"placement.interface is 'shared' and block {listed(kept)} would be kept as it is; "
            f"allowed: 'owned' or 'frozen', or --blocks={listed(every)}"
        )
    steps = latest_steps(source, config)
    missing = set().union(*(origin.blocks for origin in origins)) - steps.keys()
    if missing:
        raise SettingError(
            f"{source} has no checkpoint of block {listed(missing)}; allowed: a run that has all "
            "blocks that are taken"
        )
    _check_begun(workdir, _entry(source, trained), fine=len(lacking) == len(every))
    return Transfer(source, old, new, origins, trained, steps, plain)


def latest_steps(workdir: Path, config: ConfigDict) -> dict[int, int]:
    """The checkpoint to read of each block of a run that has one."""
    blocks = list(range(config.partition.num_blocks))
    with Checkpoints(workdir / "checkpoints") as there:
        return there.resume_steps(blocks, together=config.placement.interface == "shared")


def copy_metrics(source: Path, workdir: Path, blocks: Iterable[int]) -> None:
    """Copies the journals of blocks from one run folder to another."""
    for b in blocks:
        folder = Path("metrics", f"block_{b:02d}")
        if (source / folder).is_dir():
            shutil.copytree(source / folder, workdir / folder, dirs_exist_ok=True)


def listed(blocks: Iterable[int]) -> str:
    """Numbers as options of the programs take them: "0,2"."""
    return ",".join(map(str, sorted(blocks)))


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text under one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def _check_noise_is_learned(new: Setup, plain: str) -> None:
    """Refuses settings under which what a plain network lacks would stay untrained or unset."""
    interface = new.placement.interface
    allowed = f"'owned' or 'shared' with --from of {plain!r}, whose interface knows no noise"
    require(interface != "frozen", "placement.interface", interface, allowed)


def _check_begun(workdir: Path, entry: Mapping[str, Any] | None, *, fine: bool) -> None:
    """Refuses to continue a folder otherwise than it was begun, unless that is `fine`."""
    path = _record(workdir)
    found = json.loads(path.read_text()) if path.exists() else None
    if found != entry and not fine:
        begun, asked = (
            "without --from" if e is None else f"with --from={e['from']}, training {e['blocks']}"
            for e in (found, entry)
        )
        raise SettingError(
            f"{workdir} was begun {begun}, and is to be continued {asked}; allowed: the same, or a "
            "new folder"
        )


def _record(workdir: Path) -> Path:
    """The file that says how a run was begun."""
    return workdir / "from.json"


def _entry(source: Path, trained: Sequence[int]) -> dict[str, Any]:
    return {"from": str(source.absolute()), "blocks": list(trained)}


def _shape(trainer: Trainer, block: int) -> BlockState:
    """What a checkpoint of the block must look like; it is read to the host."""
    return abstract(jax.eval_shape(functools.partial(trainer.init, block)), host_memory())
