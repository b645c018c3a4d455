"""ImageNet 256x256 as latents of an image autoencoder, in array_record files.

A folder holds `train*.array_record` and `test*.array_record`. A record is one example: the label
as a little-endian int32, then the latents as little-endian float16 in the order height, width,
channel. Where `dbjax.data.encode` wrote them, `latents.json` says what they are of.
"""

import json
import os
import pathlib

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float, Int, Integer

from dbjax.data.dataset import Batch, Dataset, DatasetInfo, Source, fingerprint
from dbjax.errors import SettingError

LATENT_SHAPE = (32, 32, 4)
# The factor by which the autoencoder of Rombach et al. 2022 (arXiv 2112.10752) brings its latents
# to unit standard deviation.
LATENT_SCALE = 0.18215
INDEX = "latents.json"

_RECORD = np.dtype([("label", "<i4"), ("image", "<f2", LATENT_SHAPE)])


def write_latents(
    path: str | os.PathLike[str],
    latents: Float[np.ndarray, "size 32 32 4"],
    labels: Integer[np.ndarray, " size"],
) -> None:
    """Writes one array_record file of latents.

    Args:
      path: the file, `<split>*.array_record`; its folder is made if need be.
      latents: as the encoder gives them, not multiplied by `LATENT_SCALE`; stored in float16.
      labels: ImageNet classes, 0 to 999.
    """
    records = np.empty(len(latents), _RECORD)
    records["label"] = labels
    records["image"] = latents
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    # One record per group is what random access needs; half-precision noise does not compress.
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
    try:
        for record in records:
            writer.write(record.tobytes())
    finally:
        writer.close()


def load_imagenet256_latents(data_dir: str | None, split: str) -> Dataset:
    """Opens a folder of latents, float16 `[32, 32, 4]`, 1,000 classes, read from disk as needed.

    Args:
      data_dir: the folder.
      split: `train` or `test`.

    Raises:
      SettingError: the folder holds no file of that split, or was not written to its end.
    """
    pattern = f"{split}*.array_record"
    folder = pathlib.Path(data_dir).expanduser() if data_dir is not None else None
    paths = sorted(folder.glob(pattern)) if folder is not None else []
    if not paths:
        raise SettingError(
            f"data.name 'imagenet256_latents' needs files {pattern} in the folder data.data_dir, "
            f"which is {data_dir!r} and holds none: encode the images with `python -m "
            "experiments.encode_latents`, or write latents with `dbjax.data.write_latents`."
        )
    index = paths[0].with_name(INDEX)
    if index.is_file() and not json.loads(index.read_text())["complete"]:
        raise SettingError(
            f"data.data_dir is {data_dir!r}, whose latents are not complete; allowed: a folder "
            "that experiments.encode_latents has written to its end, which the same command does "
            "where it is run again"
        )
    source = _LatentSource(paths)
    # Files of this format differ in content but not in length, so some content is hashed too.
    samples = source.read(np.linspace(0, len(source) - 1, num=16).astype(int))
    info = DatasetInfo(
        name="imagenet256_latents",
        image_shape=LATENT_SHAPE,
        num_classes=1000,
        size=len(source),
        mean=0.0,
        std=1 / LATENT_SCALE,
        max_value=None,
        fingerprint=fingerprint(
            f"imagenet256_latents {len(source)}".encode(),
            samples["image"].tobytes(),
            samples["label"].tobytes(),
        ),
    )
    return Dataset(info, source)


class _LatentSource(Source):
    """Examples read from array_record files."""

    read_threads = 8

    def __init__(self, paths: list[pathlib.Path]) -> None:
        self._records = grain.sources.ArrayRecordDataSource([os.fspath(path) for path in paths])

    def __len__(self) -> int:
        return len(self._records)

    def read(self, indices: Int[np.ndarray, " batch"]) -> Batch:
        raw = b"".join(self._records.__getitems__(indices.tolist()))
        records = np.frombuffer(raw, _RECORD)
        return {
            "image": records["image"].astype(np.float16),
            "label": records["label"].astype(np.int32),
        }
