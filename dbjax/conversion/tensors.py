"""Files of tensors as PyTorch programs keep them: safetensors, whole or in shards."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dbjax.errors import SettingError, require
from dbjax.packages import optional_package

FILE, INDEX, SETTINGS = "model.safetensors", "model.safetensors.index.json", "config.json"
_KINDS = ("F64", "F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of one network, each read when it is asked for.

    Attributes:
        path: the file, the index of the shards, or the folder that was named.
        shapes: of each tensor.
        settings: what `config.json` beside the file says; empty where there is none.
        files: which file each tensor is in.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, Any]
    files: Mapping[str, Path]

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32.

        Raises:
            SettingError: if a value is infinite or no number.
        """
        with _open(self.files[name]) as file:
            tensor = np.asarray(file.get_tensor(name), np.float32)
        if not np.all(np.isfinite(tensor)):
            raise SettingError(
                f"{name} of {self.path} holds values that are infinite or no numbers; allowed: "
                "finite weights"
            )
        return tensor


def open_tensors(path: Path) -> Tensors:
    """The tensors in a file, in the shards that an index lists, or in a folder with either.

    Only names, shapes and types are read.

    Raises:
        SettingError: if there is no such file, it is of another format, a shard or one of its
            tensors is missing, or a tensor is of a kind that is no plain number.
    """
    found = path
    if path.is_dir():
        found = next((path / name for name in (FILE, INDEX) if (path / name).is_file()), path)
        require(found != path, "the folder of weights", str(path), f"one with {FILE} or {INDEX}")
    if found.suffix == ".json":
        listed = _json(found).get("weight_map")
        if not isinstance(listed, dict) or any(name != Path(name).name for name in listed.values()):
            raise SettingError(f"{found} lists no shards; allowed: an index with a `weight_map`")
        files = {name: found.parent / file for name, file in listed.items()}
    else:
        files = {name: found for name in _names(found)}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(set(files.values())):
        own = {name for name, holder in files.items() if holder == file}
        lacking = sorted(own - set(_names(file)))
        if lacking:
            raise SettingError(
                f"{file} lacks {lacking[0]}, which {found.name} says is there; allowed: the shards "
                "that belong to the index"
            )
        with _open(file) as opened:
            for name in own:
                part = opened.get_slice(name)
                kind = part.get_dtype()
                require(kind in _KINDS, f"the type of {name} in {file}", kind, ", ".join(_KINDS))
                shapes[name] = tuple(part.get_shape())
    beside = found.parent / SETTINGS
    return Tensors(path, shapes, _json(beside) if beside.is_file() else {}, files)


def write_tensors(
    folder: Path, tensors: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> None:
    """Writes `model.safetensors` in float32 and, if there are settings, `config.json`."""
    whole = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}
    # transformers refuses files that do not say which library's order of axes they have.
    _package("safetensors.numpy").save_file(whole, folder / FILE, metadata={"format": "pt"})
    if settings:
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def _names(file: Path) -> list[str]:
    with _open(file) as opened:
        return list(opened.keys())


def _open(file: Path) -> Any:
    safetensors = _package("safetensors")
    try:
        return safetensors.safe_open(file, framework="numpy")
    except OSError as error:
        raise SettingError(f"{file} cannot be read; allowed: a file of safetensors") from error
    except safetensors.SafetensorError as error:
        raise SettingError(
            f"{file} is not of the format safetensors ({error}); allowed: a file of safetensors, "
            "which torch's own .pt and .bin are not"
        ) from error


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SettingError(f"{file} cannot be read as JSON ({error}); allowed: JSON") from error
    require(isinstance(values, dict), str(file), values, "a JSON object")
    return values


def _package(name: str) -> Any:
    return optional_package(name, "conversion", "'dbjax[convert]'")
