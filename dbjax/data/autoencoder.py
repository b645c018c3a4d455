"""Autoencoders whose latents diffusion models are trained on: pictures to latents, and back."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from dbjax.errors import SettingError
from dbjax.packages import optional_package

_NEEDS = "an autoencoder of pictures", "'dbjax[latents]'"


@runtime_checkable
class Autoencoder(Protocol):
    """Pictures to latents and back.

    Attributes:
        name: all that latents depend on besides the picture.
    """

    name: str

    def encode(
        self, pictures: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[np.ndarray, "batch rows columns channels"]:
        """Latents as the encoder gives them, not multiplied by any factor."""

    def decode(
        self, latents: Float[np.ndarray, "batch rows columns channels"]
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Pictures of latents as `encode` gives them."""


class DiffusersAutoencoder:
    """An `AutoencoderKL` of the library diffusers, as Stable Diffusion has it, run by torch.

    A picture's latents are the mean of the distribution that the encoder gives: no draw from it,
    which would differ from run to run.

    Attributes:
        name: "<model>, mean".
    """

    def __init__(self, model: str, *, device: str | None = None, batch_size: int = 16) -> None:
        """Loads the weights.

        Args:
            model: a folder that `save_pretrained` wrote, which needs no network; or a name that
                diffusers looks up in its cache and on the Hugging Face hub.
            device: of torch; None is the GPU, where torch has one.
            batch_size: pictures that pass through the network together.

        Raises:
            SettingError: a package or the model is missing.
        """
        self._torch = optional_package("torch", *_NEEDS)
        diffusers = optional_package("diffusers", *_NEEDS)
        try:
            # Loading in little memory would need one package more.
            found = diffusers.AutoencoderKL.from_pretrained(model, low_cpu_mem_usage=False)
        except (OSError, ValueError) as error:
            raise SettingError(
                f"{model!r} is no folder of an AutoencoderKL of diffusers, nor one that it can "
                "fetch, such as 'stabilityai/sd-vae-ft-ema'"
            ) from error
        gpu = self._torch.cuda.is_available()
        self._device = device or ("cuda" if gpu else "cpu")
        self._model: Any = found.float().to(self._device).eval()
        self._batch_size = batch_size
        self.name = f"{model}, mean"

    def encode(
        self, pictures: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[np.ndarray, "batch rows columns channels"]:
        """See `Autoencoder`."""
        return self._map(
            pictures.astype(np.float32) / 127.5 - 1,
            lambda x: self._model.encode(x).latent_dist.mode(),
        )

    def decode(
        self, latents: Float[np.ndarray, "batch rows columns channels"]
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """See `Autoencoder`."""
        values = self._map(latents.astype(np.float32), lambda z: self._model.decode(z).sample)
        return np.rint((values * 127.5 + 127.5).clip(0, 255)).astype(np.uint8)

    def _map(self, arrays: Float[np.ndarray, "batch ..."], function: Any) -> np.ndarray:
        """`function` of batches, whose channels torch wants before height and width."""
        found = []
        with self._torch.inference_mode():
            for start in range(0, len(arrays), self._batch_size):
                batch = arrays[start : start + self._batch_size].transpose(0, 3, 1, 2)
                tensor = self._torch.from_numpy(np.ascontiguousarray(batch)).to(self._device)
                found.append(function(tensor).cpu().numpy().transpose(0, 2, 3, 1))
        return np.concatenate(found)
