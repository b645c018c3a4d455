"""Turns folders of pictures into latents, in files that a killed process need not write again.

    latents.json  train-00000-of-00129.array_record  ...  test-00000-of-00005.array_record

The index is replaced after every file. It says which pictures are in which file, so that latents of
other pictures, or of another encoder, are never put beside those that are there.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import UInt8
from PIL import Image
from tqdm.auto import tqdm

from dbjax.data.autoencoder import Autoencoder
from dbjax.data.latents import INDEX, LATENT_SHAPE, write_latents
from dbjax.data.shards import checksum, file_checksum, write_file
from dbjax.errors import SettingError, require

SIDE = 256
"""Of the pictures that are encoded."""
SPLITS: Mapping[str, tuple[str, ...]] = {"train": ("train",), "test": ("test", "val")}
"""Sub-folders that a split is looked for in; the first that is there is taken."""
_PICTURES = (".jpeg", ".jpg", ".png")
_LOCK = "latents.lock"
_TOGETHER = 64  # pictures that are read, then encoded, together
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class _Shard:
    """A file of latents to be: the pictures in it and their classes."""

    name: str
    pictures: Sequence[pathlib.Path]
    labels: Sequence[int]


def encode_folder(
    folder: pathlib.Path,
    out: pathlib.Path,
    encoder: Autoencoder,
    *,
    shard_size: int = 10_000,
    threads: int = 8,
) -> dict[str, int]:
    """Writes the latents of all pictures of a folder, or goes on where another process was killed.

    A file that is there as it was written is not made again; one that is missing or damaged is.

    Args:
        folder: `train` and `test` (or `val`), each with a sub-folder of pictures for each class, as
            ImageNet has it; one split is enough. Classes are numbered in the order of the names
            that their folders have in `train`.
        out: for the files; made if need be.
        encoder: pictures to latents.
        shard_size: pictures of a file.
        threads: that read pictures.

    Returns:
        Pictures of each split.

    Raises:
        SettingError: there are no pictures, one cannot be read, latents have another shape than
            `dbjax.data.latents.LATENT_SHAPE`, or `out` cannot be written, is being written, or
            holds something else or latents of other pictures or of another encoder.
    """
    require(shard_size >= 1, "pictures of a file", shard_size, "1 or more")
    splits = _splits(folder)
    shards = _shards(splits, shard_size)
    sources = {shard.name: _source(folder, shard) for shard in shards}
    settings = {"encoder": encoder.name, "side": SIDE}
    counts = {split: len(pictures) for split, (pictures, _) in splits.items()}
    with _held(out):
        done = _read_index(out, settings, sources)
        total = sum(counts.values())
        with tqdm(total=total, desc="encode", unit="picture", disable=None) as bar:
            whole = [shard for shard in shards if _is_whole(out, shard.name, done)]
            bar.update(sum(len(shard.pictures) for shard in whole))
            for shard in shards:
                if shard not in whole:
                    # Before the first too, so that nobody trains on what is being mended.
                    _write_index(out, settings, sources, done, complete=False)
                    done[shard.name] = _write(out, shard, encoder, threads, bar)
        _write_index(out, settings, sources, done, complete=True)
    return counts


def centre_crop(picture: Image.Image, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The middle of a picture, as guided-diffusion (ADM) and DiT cut it.

    Halved with a box filter while its shorter side is at least twice too long, then resized to it
    bicubically, then cut.
    """
    picture = picture.convert("RGB")
    while min(picture.size) >= 2 * side:
        width, height = picture.size
        picture = picture.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = side / min(picture.size)
    width, height = (round(length * scale) for length in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _splits(folder: pathlib.Path) -> dict[str, tuple[list[pathlib.Path], list[int]]]:
    """Pictures and their classes by split."""
    found = {}
    numbers: dict[str, int] = {}
    for split, names in SPLITS.items():
        below = next((folder / name for name in names if (folder / name).is_dir()), None)
        if below is None:
            continue
        pictures = sorted(p for p in below.rglob("*") if p.suffix.lower() in _PICTURES)
        classes = [picture.relative_to(below).parts[0] for picture in pictures]
        alone = next((p for p in pictures if p.parent == below), None)
        if alone is not None:
            raise SettingError(f"{alone} is in no folder of a class; allowed: split/class/picture")
        if not numbers:
            numbers = {name: number for number, name in enumerate(sorted(set(classes)))}
        for name in sorted(set(classes) - set(numbers)):
            raise SettingError(
                f"{below / name} is a class that the training pictures do not have; allowed: "
                "folders of the same names"
            )
        if pictures:
            found[split] = (pictures, [numbers[name] for name in classes])
    require(len(numbers) <= 1000, "the number of classes", len(numbers), "at most 1,000")
    if not found:
        raise SettingError(
            f"{folder} holds no pictures; allowed: a folder with train/class/picture and "
            f"test/class/picture (or val), of kind {', '.join(_PICTURES)}"
        )
    return found


def _shards(splits: Mapping[str, tuple[list[pathlib.Path], list[int]]], size: int) -> list[_Shard]:
    found = []
    for split, (pictures, labels) in splits.items():
        count = -(-len(pictures) // size)
        for number in range(count):
            part = slice(number * size, (number + 1) * size)
            name = f"{split}-{number:05d}-of-{count:05d}.array_record"
            found.append(_Shard(name, pictures[part], labels[part]))
    return found


def _source(folder: pathlib.Path, shard: _Shard) -> str:
    """A hash of which pictures these are: of their names, sizes and classes, not of all pixels."""
    lines = (
        f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0{label}\n".encode()
        for path, label in zip(shard.pictures, shard.labels, strict=True)
    )
    return checksum(*lines)


def _write(out: pathlib.Path, shard: _Shard, encoder: Autoencoder, threads: int, bar: Any) -> str:
    """Writes one file; returns its checksum."""
    latents = []
    with concurrent.futures.ThreadPoolExecutor(threads) as readers:
        for start in range(0, len(shard.pictures), _TOGETHER):
            pictures = shard.pictures[start : start + _TOGETHER]
            found = encoder.encode(np.stack(list(readers.map(_read, pictures))))
            allowed = f"{LATENT_SHAPE}, of an encoder that shrinks 8 times to 4 channels"
            shape = tuple(found.shape[1:])
            require(
                shape == LATENT_SHAPE, f"the shape of latents of {encoder.name}", shape, allowed
            )
            if not np.abs(found).max() <= np.finfo(np.float16).max:
                raise SettingError(
                    f"latents of {encoder.name} are not finite in 16 bits, in which they are "
                    f"stored, among {len(pictures)} pictures from {pictures[0]} on; allowed: an "
                    "autoencoder whose latents are"
                )
            latents.append(found.astype(np.float16))
            bar.update(len(pictures))
    # Not under its name before it is whole: readers take every file of that name.
    partial = out / f"{shard.name}.part"
    write_latents(partial, np.concatenate(latents), np.array(shard.labels))
    found_checksum = file_checksum(partial)
    os.replace(partial, out / shard.name)
    return found_checksum


def _read(path: pathlib.Path) -> UInt8[np.ndarray, "side side 3"]:
    try:
        with Image.open(path) as picture:
            return centre_crop(picture, SIDE)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        text = " ".join(str(error).split())
        raise SettingError(
            f"{path} cannot be read as a picture ({text}); allowed: to mend or to remove it, and "
            "to run the same command again"
        ) from error


# --- the index ------------------------------------------------------------------------------------


def _is_whole(out: pathlib.Path, name: str, done: Mapping[str, str]) -> bool:
    path = out / name
    return name in done and path.is_file() and file_checksum(path) == done[name]


def _write_index(
    out: pathlib.Path,
    settings: Mapping[str, Any],
    sources: Mapping[str, str],
    done: Mapping[str, str],
    *,
    complete: bool,
) -> None:
    index = {
        "version": _VERSION,
        "settings": settings,
        "sources": sources,
        "checksums": done,
        "complete": complete,
    }
    write_file(out / INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _read_index(
    out: pathlib.Path, settings: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, str]:
    """Checksums of the files that were written."""
    file = out / INDEX
    if not file.is_file():
        others = (path.name for path in out.iterdir() if not path.name.startswith((_LOCK, INDEX)))
        foreign = min(others, default=None)
        if foreign is not None:
            raise SettingError(
                f"{out} holds {foreign}, which is not of these latents; allowed: an empty or new "
                "folder"
            )
        return {}
    try:
        index = json.loads(file.read_text())
        there, pictures, done = index["settings"], index["sources"], dict(index["checksums"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(f"{file} cannot be read ({error}); allowed: a new folder") from error
    for key, value in settings.items():
        if there.get(key) != value:
            raise SettingError(
                f"{out} holds latents made with {key} {there.get(key)!r}, here it is {value!r}; "
                "allowed: the same, or a new folder"
            )
    if pictures != dict(sources):
        raise SettingError(
            f"{out} holds latents of other pictures, or in files of another size; allowed: the "
            "same, or a new folder"
        )
    return done


@contextlib.contextmanager
def _held(out: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of the folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / _LOCK, timeout=0):
            yield
    except Timeout as error:
        raise SettingError(
            f"{out} is being written by another process; allowed: waiting for it"
        ) from error
    except OSError as error:
        raise SettingError(
            f"{out} cannot be written: {error.strerror}; allowed: a folder to write to"
        ) from error
