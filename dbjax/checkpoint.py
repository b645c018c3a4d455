"""Saving and restoring blocks; the only place that knows Orbax.

    <workdir>/checkpoints/block_00/<step>/{state,data}    one series per block, by its own steps
    <workdir>/checkpoints/snapshot.json                   the steps that were saved together

A block's item is complete in itself: parameters (its interface among them), optimizer state,
average, step, and the position of its data stream. Blocks that own their interface are restored
each from its latest step, so they may be saved, lost and resumed apart from one another. Blocks
that share one are restored from the last snapshot all of them are in.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dbjax.devices import host_memory
from dbjax.distributed import wait_for_all_processes
from dbjax.errors import SettingError
from dbjax.training import BlockState

Saved = tuple[BlockState, dict[str, Any]]


class Checkpoints:
    """The checkpoints of one run. Use as a context manager: leaving it waits for pending writes."""

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int = 2,
        processes: Mapping[int, list[int]] | None = None,
    ) -> None:
        """Opens a folder, which is created on the first save.

        Args:
            directory: the folder; one that all processes see, where there are several.
            keep: steps kept of each block, at least 2.
            processes: with `jax.distributed`, those that hold parts of a block, ascending. They
                save and restore it together, and no other process takes part.
        """
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._processes = processes or {}
        self._managers: dict[int, ocp.CheckpointManager] = {}
        self._pending: Mapping[int, int] = {}
        if jax.process_count() > 1:
            # Each block is written by the processes that hold it, and by all of one's copy.
            handler = ocp.type_handlers.ArrayHandler(
                primary_host=None, use_replica_parallel=False, enable_write_sharding_file=False
            )
            ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)

    def save(
        self, blocks: Mapping[int, Saved], *, snapshot: Mapping[int, int] | None = None
    ) -> None:
        """Saves blocks that moved since they were last saved; writing goes on in the background.

        Args:
            blocks: of this process.
            snapshot: steps of all blocks of the run, to be restored together (a shared interface).
        """
        self.wait()
        for block, (state, data) in blocks.items():
            step = int(state.step)
            manager = self._manager(block)
            if step not in manager.all_steps():
                if jax.process_count() > 1:
                    state = jax.tree.map(_spanning_processes, state)
                args = ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
                )
                manager.save(step, args=args)
        self._pending = snapshot or {}

    def wait(self) -> None:
        """Returns when all is on disk."""
        for manager in self._managers.values():
            manager.wait_until_finished()
        if self._pending:
            wait_for_all_processes("snapshot")
            if jax.process_index() == 0:
                self._write_snapshot(self._pending)
            self._pending = {}

    def steps(self, block: int) -> list[int]:
        """Steps of `block` that can be restored, ascending; empty before the first save."""
        path = self._path(block)
        return sorted(ocp.utils.checkpoint_steps(path)) if path.is_dir() else []

    def resume_steps(self, blocks: list[int], *, together: bool) -> dict[int, int]:
        """The step to restore for each block that has one.

        Args:
            blocks: block numbers.
            together: only steps of one snapshot will do (a shared interface).
        """
        if not together:
            return {b: steps[-1] for b in blocks if (steps := self.steps(b))}
        snapshot = self._read_snapshot()
        return {b: snapshot[b] for b in blocks} if all(b in snapshot for b in blocks) else {}

    def restore(self, block: int, step: int, like: BlockState) -> Saved:
        """One block at one of its `steps`, and the position of its data stream.

        Args:
            block: block number.
            step: one of `steps(block)`; later ones are deleted, they belong to an abandoned future.
            like: a state (or its shapes with shardings) of the block; says where arrays go.

        Raises:
            SettingError: if the checkpoint does not fit `like`.
        """
        manager = self._manager(block)
        for later in [s for s in manager.all_steps() if s > step]:
            manager.delete(later)
        return self.read(block, step, like)

    def read(self, block: int, step: int, like: BlockState) -> Saved:
        """`restore` for a reader: deletes nothing."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        try:
            saved = self._manager(block).restore(step, args=args)
        except (ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise SettingError(
                f"checkpoint {self._path(block) / str(step)} does not fit this model: {reason}"
            ) from error
        return saved.state, saved.data

    def data(self, block: int, step: int) -> dict[str, Any]:
        """The position of the data stream alone, of a block at one of its `steps`."""
        args = ocp.args.Composite(data=ocp.args.JsonRestore())
        return self._manager(block).restore(step, args=args).data

    def copy(
        self, steps: Mapping[int, int], target: "Checkpoints", *, together: bool = False
    ) -> None:
        """Copies blocks, each at one of its `steps`, to the checkpoints of another run.

        Args:
            steps: of each block that is copied.
            target: of the other run; has none of these blocks yet.
            together: they share an interface and are one snapshot.
        """
        for block, step in steps.items():
            path = target._path(block)
            partial = path.with_suffix(".part")
            # What a kill leaves half copied is not to be taken for a checkpoint.
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self._path(block) / str(step), partial)
            path.mkdir(parents=True, exist_ok=True)
            os.replace(partial, path / str(step))
        if together:
            target._write_snapshot(steps)

    def close(self) -> None:
        self.wait()
        for manager in self._managers.values():
            manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _path(self, block: int) -> Path:
        return self._directory / f"block_{block:02d}"

    def _manager(self, block: int) -> ocp.CheckpointManager:
        if block not in self._managers:
            path = self._path(block)
            options = ocp.CheckpointManagerOptions(max_to_keep=self._keep)
            together = ocp.options.MultiprocessingOptions()
            if jax.process_count() > 1:
                processes = self._processes[block]
                together = ocp.options.MultiprocessingOptions(
                    primary_host=processes[0],
                    active_processes=set(processes),
                    barrier_sync_key_prefix=f"block_{block}",
                )
                path.mkdir(parents=True, exist_ok=True)
                options.create = False
                # Background saves signal each other by keys that take all processes to be in step.
                options.enable_async_checkpointing = False
                options.multiprocessing_options = together
            handlers = {
                "state": ocp.StandardCheckpointHandler(multiprocessing_options=together),
                "data": ocp.JsonCheckpointHandler(multiprocessing_options=together),
            }
            self._managers[block] = ocp.CheckpointManager(
                path, item_handlers=handlers, options=options
            )
        return self._managers[block]

    def _read_snapshot(self) -> dict[int, int]:
        path = self._directory / "snapshot.json"
        if not path.exists():
            return {}
        return {int(block): step for block, step in json.loads(path.read_text()).items()}

    def _write_snapshot(self, steps: Mapping[int, int]) -> None:
        path = self._directory / "snapshot.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(steps))
        os.replace(temporary, path)


def _spanning_processes(leaf: jax.Array) -> jax.Array:
    """`leaf` as Orbax takes it where there are several processes.

    It refuses arrays that lie within one process, which is where all of a block is whenever its
    group does. On paper another process has a copy of what this returns; it is never asked for it.
    """
    if not leaf.is_fully_addressable:
        return leaf
    here = jax.local_devices()[0]
    other = next(d for d in jax.devices() if d.process_index != here.process_index)
    mesh = Mesh([here, other], ("copies",))
    copy = jax.device_put(jax.device_get(leaf), host_memory())
    sharding = NamedSharding(mesh, PartitionSpec(), memory_kind="pinned_host")
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, [copy])


def abstract(state: BlockState, sharding: jax.sharding.Sharding) -> BlockState:
    """Shapes and types of `state` and where it shall go, as `Checkpoints.restore` wants it."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
