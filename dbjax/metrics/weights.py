"""Weights of networks that measure, from files that users name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dbjax.errors import SettingError, require
from dbjax.packages import optional_package

SUFFIXES = (".safetensors", ".pth", ".pt")


def read_weights(file: Path) -> dict[str, np.ndarray]:
    """All tensors of a state dict, .safetensors or what `torch.save` writes (.pth, .pt).

    Raises:
        SettingError: there is no such file, it is of another format, or a package is missing.
    """
    require(file.suffix in SUFFIXES, "the file of weights", str(file), " or ".join(SUFFIXES))
    require(file.is_file(), "the file of weights", str(file), "a file that is there")
    if file.suffix == ".safetensors":
        package = optional_package("safetensors", "a file of weights", "'dbjax[convert]'")
        try:
            return optional_package(
                "safetensors.numpy", "a file of weights", "'dbjax[convert]'"
            ).load_file(file)
        except (package.SafetensorError, OSError) as error:
            raise SettingError(f"{file} is not of the format safetensors ({error})") from error
    torch = optional_package("torch", f"a {file.suffix} file of weights", "torch")
    try:
        # Tensors and nothing else: a pickle could call any function.
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in loaded.items()}
    except Exception as error:  # torch raises errors of many kinds, some with bad advice
        raise SettingError(
            f"{file} is no state dict that can be read without running code in it; allowed: what "
            "torch.save(model.state_dict(), FILE) writes"
        ) from error


def weights_checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """Of names and values, 8 hexadecimal digits, whatever format they came in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], np.float32).tobytes())
    return digest.hexdigest()[:8]
