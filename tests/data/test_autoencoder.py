"""The autoencoder of diffusers: a tiny one with random weights where torch and it are installed."""

import sys

import numpy as np
import pytest

from dbjax.data.autoencoder import Autoencoder, DiffusersAutoencoder
from dbjax.errors import SettingError

# What torch and diffusers warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An AutoencoderKL that shrinks eight times to four channels, saved as models are."""
    torch = pytest.importorskip("torch", reason="torch and diffusers are not in the tested set")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    path = str(tmp_path_factory.mktemp("vae"))
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        norm_num_groups=4,
    ).save_pretrained(path)
    return path


def test_pictures_become_means_of_latents_and_back(folder):
    import torch
    from diffusers import AutoencoderKL

    found = DiffusersAutoencoder(folder, batch_size=2)
    assert isinstance(found, Autoencoder)
    assert found.name == f"{folder}, mean"
    pictures = np.random.default_rng(0).integers(256, size=(3, 64, 48, 3), dtype=np.uint8)
    model = AutoencoderKL.from_pretrained(folder).eval()
    with torch.inference_mode():
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        mean = model.encode(x).latent_dist.mean
        back = model.decode(mean).sample.permute(0, 2, 3, 1).numpy()
    latents = found.encode(pictures)
    assert latents.shape == (3, 8, 6, 4)
    np.testing.assert_allclose(latents, mean.permute(0, 2, 3, 1).numpy(), atol=1e-4)
    shown = found.decode(latents)
    assert shown.dtype == np.uint8
    assert np.abs(shown - (127.5 * back + 127.5).clip(0, 255)).max() < 0.6


def test_a_folder_without_a_model_is_refused(folder, tmp_path):
    with pytest.raises(SettingError, match="is no folder of an AutoencoderKL of diffusers"):
        DiffusersAutoencoder(str(tmp_path))


@pytest.mark.parametrize("package", ["torch", "diffusers"])
def test_without_the_packages_they_are_named(monkeypatch, package):
    if package == "diffusers":
        monkeypatch.setitem(sys.modules, "torch", sys)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"an autoencoder of pictures needs the package '{package}'.*'dbjax\[latents\]'"
    with pytest.raises(SettingError, match=message):
        DiffusersAutoencoder("vae")
