"""The folder of one run: who may write there, and reading a finished run back.

workdir/  config.json  metrics/block_00/…  checkpoints/block_00/…  samples/  evaluation.json
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from ml_collections import ConfigDict

from dbjax.build import complete
from dbjax.config import config_differences, config_from_json, config_to_json
from dbjax.errors import SettingError

MAY_CHANGE = (
    "training.steps",
    "training.log_every",
    "training.save_every",
    "placement.name",
    "placement.steps_per_visit",
    "placement.steps_per_dispatch",
    "placement.prefetch",
    "placement.groups",
    "placement.devices",
    "placement.shard_above",
    "training.remat",
    "autoregressive.bridge",
    "sampling",
    "data.data_dir",
)
"""Settings that a resumed run may have differently: they do not change what a step computes.

With a decaying schedule, more `training.steps` stretch the decay from here on."""


def claim(path: str | Path, config: ConfigDict) -> Path:
    """The absolute path of a run's folder, created and marked with its config.

    A folder that holds a run of the same config is continued.

    Raises:
        SettingError: if the folder cannot be written, holds something else, or holds a run of
            another config. Nothing is changed then.
    """
    workdir = Path(path).absolute()
    check_claim(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # Without a name, where there can be such: a kill leaves nothing of it.
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise SettingError(
            f"workdir {workdir} cannot be written ({error.strerror}); allowed: a folder you may "
            "write to"
        ) from error
    write_whole(workdir / "config.json", config_to_json(config))
    return workdir


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `path` once all is in it; nothing stays of less.

    Raises:
        SettingError: if `path` is there and not empty, or cannot be written.
    """
    check_empty(path)
    path = path.absolute()
    partial = path.with_name(f"{path.name}.part")
    try:
        # What an earlier process left behind when it was killed.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise SettingError(
            f"{path} cannot be written ({error.strerror}); allowed: a folder you may write to"
        ) from error
    try:
        yield partial
        if path.is_dir():
            path.rmdir()
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_empty(path: Path) -> None:
    """Refuses a path where there is something already.

    Raises:
        SettingError: if it is a file, or a folder that is not empty.
    """
    if path.is_dir() and any(path.iterdir()):
        raise SettingError(f"{path} is not empty; allowed: a new or empty folder")
    if path.exists() and not path.is_dir():
        raise SettingError(f"{path} is a file; allowed: a new or empty folder")


def check_claim(path: str | Path, config: ConfigDict) -> None:
    """Refuses a folder that `claim` would refuse for what it holds; changes nothing.

    Raises:
        SettingError: if it holds something else, or a run of another config.
    """
    workdir = Path(path).absolute()
    existing = _existing_config(workdir)
    if existing is not None:
        differences = run_differences(existing, config)
        if differences:
            more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
            raise SettingError(
                f"{workdir} holds a run of another config, {'; '.join(differences[:3])}{more}; "
                "allowed: the same config, or a new folder"
            )


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that whoever reads it, and whenever this is killed, finds all or nothing."""
    # Named after the process, since several may write the same at the same time.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def run_differences(there: ConfigDict, here: ConfigDict) -> list[str]:
    """Where the configs of two runs differ in what changes a step; see `config_differences`.

    A tokenizer may have moved to another path: checkpoints know the data that it made.
    """
    paths = [config.get("data", {}).get("tokenizer") or "" for config in (there, here)]
    moved = ("data.tokenizer",) if all(path.endswith(".json") for path in paths) else ()
    return config_differences(there, here, ignore=(*MAY_CHANGE, *moved))


@contextlib.contextmanager
def hold(workdir: Path, blocks: Iterable[int]) -> Iterator[None]:
    """Keeps other processes from training the same blocks in the same folder.

    The hold ends with the process, however it ends.

    Raises:
        SettingError: if another process holds one of them.
    """
    with contextlib.ExitStack() as locks:
        for block in blocks:
            path = workdir / "checkpoints" / f"block_{block:02d}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                locks.enter_context(FileLock(path, timeout=0))
            except Timeout as error:
                raise SettingError(
                    f"block {block} of {workdir} is being trained by another process; allowed: "
                    "other blocks, or waiting for it"
                ) from error
        yield


def read_config(path: str | Path) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
        SettingError: if there is none.
    """
    workdir = Path(path).absolute()
    config = _existing_config(workdir)
    if config is None:
        raise SettingError(
            f"workdir {workdir} holds no run; allowed: a folder that experiments.train has written"
        )
    return config


def _existing_config(workdir: Path) -> ConfigDict | None:
    """The config in `workdir`, None for a new or empty folder."""
    if not workdir.exists():
        return None
    if not workdir.is_dir():
        raise SettingError(f"workdir {workdir} is a file; allowed: a folder")
    file = workdir / "config.json"
    if file.is_file():
        return complete(config_from_json(file.read_text()))
    entries = (entry.name for entry in workdir.iterdir())
    found = sorted(name for name in entries if not re.fullmatch(r"config\.json\.\d+\.tmp", name))
    if found:
        raise SettingError(
            f"workdir {workdir} is not empty and not a run of dbjax (it holds {found[0]!r} and no "
            "config.json); allowed: a new or empty folder, or one to continue"
        )
    return None
