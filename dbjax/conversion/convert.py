"""Runs that begin with a pretrained network, and networks written for other libraries."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dbjax import session
from dbjax.build import Setup, build, read_settings
from dbjax.checkpoint import Checkpoints
from dbjax.conversion.layouts import LAYOUTS, Entry, Layout, Subject
from dbjax.conversion.tensors import Tensors, open_tensors, write_tensors
from dbjax.data import make_stream
from dbjax.devices import to_host
from dbjax.errors import SettingError, require
from dbjax.task import Params
from dbjax.transfer import columns
from dbjax.workdir import claim, new_folder, read_config

# Tables that are computed may have been kept in half precision.
_SAME_CONSTANT = 1e-2


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A pretrained network that fits a run, none of whose values were read yet.

    Attributes:
        setup: the run.
        tensors: the network.
        entries: what is taken from it; the rest of ours is drawn.
        left_out: the tensors that are not taken, and why.
    """

    setup: Setup
    tensors: Tensors
    entries: Sequence[Entry]
    left_out: Mapping[str, str]

    def table(self) -> str:
        """A line for each parameter of ours, those of a layer once, and for what is not taken."""
        rows = [("parameter", "shape", f"from {self.tensors.path}", "")]
        notes = {entry.ours: (_braced(entry.theirs), entry.note) for entry in self.entries}
        for ours, shape in _shapes(self.setup).items():
            theirs, note = notes.get(ours, ("", "new, drawn from the seed"))
            rows.append((ours, "x".join(map(str, shape)), theirs, note))
        for name, reason in self.left_out.items():
            there = "x".join(map(str, self.tensors.shapes[name]))
            rows.append(("", there, name, f"left out: {reason}"))
        return columns(rows)

    def begin(self, workdir: Path) -> None:
        """Writes the run, every block at step 0 with a fresh optimizer.

        Raises:
            SettingError: if `workdir` is not new or empty or cannot be written, or a value is
                not finite. Nothing is left behind then.
        """
        setup = self.setup
        every = range(setup.task.partition.num_blocks)
        with new_folder(workdir) as folder:
            claim(folder, setup.config)
            with Checkpoints(folder / "checkpoints") as here:
                for b in every:
                    state = to_host(jax.jit(setup.trainer.begin)(self.params(b)))
                    stream = make_stream(
                        setup.dataset, setup.data, seed=setup.trainer.seed, block=b
                    )
                    together = setup.placement.interface == "shared" and b == every[-1]
                    snapshot = dict.fromkeys(every, 0) if together else None
                    here.save({b: (state, stream.state())}, snapshot=snapshot)
            record = {"from": str(self.tensors.path.absolute())}
            (folder / "converted.json").write_text(json.dumps(record))

    def params(self, block: int) -> Params:
        """Weights of a block, on the host.

        Raises:
            SettingError: if a value is not finite.
        """
        setup = self.setup
        layers = setup.task.partition.layers[block]
        draw = jax.jit(lambda: setup.trainer.init(block).params)
        shapes = jax.eval_shape(draw)
        taken = {entry.ours for entry in self.entries}
        # To draw a block costs compiling it.
        drawn = flatten(draw()) if set(flatten(shapes)) - taken else {}
        for entry in self.entries:
            if entry.in_layers:
                drawn[entry.ours] = np.stack([self._join(entry, i) for i in layers])
            else:
                drawn[entry.ours] = self._join(entry)
        places, structure = jax.tree_util.tree_flatten_with_path(shapes)
        leaves = [np.asarray(drawn[_path(place)], like.dtype) for place, like in places]
        return jax.tree.unflatten(structure, leaves)

    def _join(self, entry: Entry, layer: int | None = None) -> np.ndarray:
        return entry.join([self.tensors.read(name) for name in _named(entry.theirs, layer)])


def plan_conversion(
    setup: Setup,
    weights: Path,
    layout: str,
    *,
    new_head: bool = False,
    beginning: int | None = None,
) -> Conversion:
    """How the run `setup` begins with a pretrained network; writes nothing.

    Args:
        setup: the run.
        weights: a file of safetensors, the index of its shards, or a folder with either.
        layout: one of `LAYOUTS`.
        new_head: draw what depends on the classes anew.
        beginning: the token that begins a text; None is what `config.json` beside the file says.

    Raises:
        SettingError: if the network is not of this layout, or not of the run's shape.
    """
    found = _layout(setup, layout)
    allowed = "a classifier's, with --new_head"
    require(not new_head or bool(found.head), "--layout", layout, allowed)
    tensors = open_tensors(weights)
    if beginning is None:
        told = tensors.settings.get("bos_token_id")
        beginning = told if isinstance(told, int) else None
    subject = _subject(setup)._replace(shapes=tensors.shapes, beginning=beginning)
    _check_settings(tensors, found.settings(subject))
    _check_depth(tensors, found.layer, setup.task.partition.num_layers)
    entries = found.entries(subject)
    left_out: dict[str, str] = {}
    if new_head:
        head = [entry for entry in entries if entry.ours.startswith(found.head)]
        entries = [entry for entry in entries if entry not in head]
        names = {name for entry in head for name in entry.theirs}
        left_out |= dict.fromkeys(sorted(names & tensors.shapes.keys()), "for other classes")
    for name, expected in found.constants(subject).items():
        _check_constant(tensors, name, expected)
        left_out[name] = "computed"
    needed = _needed(setup, entries)
    for name in sorted(tensors.shapes.keys() - needed.keys() - left_out.keys()):
        reason = next((why for part, why in found.unused.items() if part in name), None)
        if reason is None:
            raise SettingError(
                f"{tensors.path} has {name}, for which {setup.config.family!r} has no place; "
                f"allowed: the tensors of layout {layout!r}"
            )
        left_out[name] = reason
    for name, shape in needed.items():
        if name not in tensors.shapes:
            raise SettingError(
                f"{tensors.path} has no {name}; allowed: all tensors of layout {layout!r}"
            )
        there = tensors.shapes[name]
        require(there == shape, f"the shape of {name}", there, f"{shape}, by the config")
    return Conversion(setup, tensors, entries, left_out)


def export(workdir: Path, layout: str, folder: Path) -> str:
    """Writes the network of a run of one block for another library, in float32.

    Args:
        workdir: of the run, whose averaged weights are taken.
        layout: one of `LAYOUTS`.
        folder: new or empty.

    Returns:
        A line on what was written.

    Raises:
        SettingError: if the run is of another family, is cut into blocks, or is not there.
            Nothing is written then.
    """
    setup = build(read_config(workdir))
    found = _layout(setup, layout)
    blocks = setup.task.partition.num_blocks
    allowed = "1, since blocks have an interface each and a file has one"
    require(blocks == 1, f"partition.num_blocks of {workdir}", blocks, allowed)
    subject = _subject(setup)
    shared = setup.placement.interface == "shared"
    model = session.load(setup.trainer, workdir, shared=shared)
    params = flatten(model.blocks[0])
    tensors = found.constants(subject)
    for entry in found.entries(subject):
        value = np.asarray(params[entry.ours])
        for layer, part in enumerate(value) if entry.in_layers else [(None, value)]:
            names = _named(entry.theirs, layer)
            tensors |= dict(zip(names, entry.split(part), strict=True))
    with new_folder(folder) as written:
        settings = {**found.settings(subject), **found.described(subject)}
        write_tensors(written, tensors, settings)
    size = sum(x.size for x in tensors.values())
    return f"{len(tensors)} tensors, {size:,} numbers, step {model.steps[0]}, written to {folder}"


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by their paths, "layers/mlp/expand/kernel"."""
    return {_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _path(keys: Iterable[Any]) -> str:
    return "/".join(str(key.key) for key in keys)


def _layout(setup: Setup, name: str) -> Layout:
    """The layout of that name, if networks of the run have it."""
    require(name in LAYOUTS, "--layout", name, ", ".join(LAYOUTS))
    layout, family = LAYOUTS[name], setup.config.family
    require(family == layout.family, "family", family, f"{layout.family!r} with layout {name!r}")
    for key, value in layout.model.items():
        found = getattr(_subject(setup).model, key)
        require(found == value, f"model.{key}", found, f"{value} with layout {name!r}")
    return layout


def _subject(setup: Setup) -> Subject:
    return Subject(read_settings(setup.config).model, setup.dataset.info)


def _named(names: Iterable[str], layer: int | None) -> list[str]:
    return [name.format(i=layer) for name in names]


def _braced(names: Sequence[str]) -> str:
    """Names that differ in one part, as a shell writes them: "attn.{q,k,v}.weight"."""
    parts = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(p[0] if len(set(p)) == 1 else f"{{{','.join(p)}}}" for p in parts)


def _shapes(setup: Setup) -> dict[str, tuple[int, ...]]:
    """Of every parameter of the interface and of one layer."""
    params = flatten(jax.eval_shape(lambda: setup.trainer.init(0).params))
    return {
        path: leaf.shape[1:] if path.startswith("layers/") else leaf.shape
        for path, leaf in params.items()
    }


def _needed(setup: Setup, entries: Iterable[Entry]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that are taken."""
    ours = _shapes(setup)
    needed: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        parts = entry.split(np.broadcast_to(np.float32(0), ours[entry.ours]))
        layers = range(setup.task.partition.num_layers) if entry.in_layers else [None]
        for layer in layers:
            names = _named(entry.theirs, layer)
            needed |= {name: part.shape for name, part in zip(names, parts, strict=True)}
    return needed


def _check_settings(tensors: Tensors, expected: Mapping[str, Any]) -> None:
    """Refuses a network whose `config.json` says what weights do not show and we do not have."""
    # transformers 5 keeps those of rotary positions in a section.
    told = {**tensors.settings, **(tensors.settings.get("rope_parameters") or {})}
    for key, value in expected.items():
        found = told.get(key)
        fits = found is None or found == value
        require(fits, f"{key} in the config.json of {tensors.path}", found, f"{value!r}")


def _check_depth(tensors: Tensors, layer: str, depth: int) -> None:
    before, after = layer.split("{i}")
    starts = {name[len(before) :] for name in tensors.shapes if name.startswith(before)}
    count = len({rest.split(after)[0] for rest in starts})
    if not count:
        raise SettingError(
            f"{tensors.path} has no tensors whose names begin with {layer.format(i=0)!r}; allowed: "
            "a file of the layout that --layout says"
        )
    allowed = f"{count}, the layers in {tensors.path} whose names begin with {before!r}"
    require(depth == count, "the depth of the config's model", depth, allowed)


def _check_constant(tensors: Tensors, name: str, expected: np.ndarray) -> None:
    found = tensors.shapes.get(name)
    require(found == expected.shape, f"the shape of {name}", found, f"{expected.shape}")
    gap = float(np.max(np.abs(tensors.read(name) - expected)))
    allowed = "the table of sines and cosines that both compute"
    require(gap < _SAME_CONSTANT, f"the largest difference of {name} to ours", gap, allowed)
