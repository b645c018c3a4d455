"""The network of features that samples and real images are held against each other in."""

import argparse
import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from dbjax.build import Setup
from dbjax.data import Dataset
from dbjax.data.autoencoder import Autoencoder, DiffusersAutoencoder
from dbjax.data.dataset import fingerprint
from dbjax.errors import SettingError, require
from dbjax.metrics.image_features import (
    FeatureNetwork,
    PixelFeatures,
    ShownFeatures,
    Summary,
    summarise,
    to_8bit,
)
from dbjax.metrics.image_quality import KEPT, read_summary, write_summary
from dbjax.metrics.inception import InceptionFeatures
from dbjax.metrics.proxy import load_proxy

PIXELS = "pixels"
KINDS = f"{PIXELS}, proxy, or inception:FILE"
_TOGETHER = 1_000  # images that are read together; of pixels, whose covariance is costly, more
_PIXELS_TOGETHER = 10_000


@dataclasses.dataclass(frozen=True)
class FeatureRequest:
    """What `experiments.evaluate` is asked to measure samples of images in.

    Attributes:
        kind: `pixels`, `proxy` or `inception:FILE`.
        num_real: real images; None is all there are.
        cache: folder of proxies and of statistics of real images.
        autoencoder: that makes pictures of latents.
    """

    kind: str = PIXELS
    num_real: int | None = None
    cache: Path = Path("~/.cache/dbjax")
    autoencoder: str | None = None

    def __post_init__(self) -> None:
        name, _, file = self.kind.partition(":")
        good = self.kind in (PIXELS, "proxy") or (name == "inception" and bool(file))
        require(good, "--features", self.kind, KINDS)
        some = self.num_real is None or self.num_real >= 2
        require(some, "--num_real", self.num_real, "2 or more")

    @property
    def asked(self) -> dict[str, object]:
        """What differs from a request that says nothing."""
        own, unsaid = dataclasses.asdict(self), dataclasses.asdict(FeatureRequest())
        return {k: v for k, v in own.items() if v != unsaid[k] and k != "cache"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of a request."""
    own = parser.add_argument_group("models that draw images")
    own.add_argument(
        "--features",
        metavar="KIND",
        default=PIXELS,
        help=f"that samples are held against real images in: {KINDS}, the weights of FID's "
        "network; default: pixels",
    )
    own.add_argument(
        "--num_real", metavar="N", type=int, help="real images; default: all of data.split"
    )
    own.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        default=FeatureRequest.cache,
        help=f"of proxies and of statistics of real images; default: {FeatureRequest.cache}",
    )
    add_autoencoder(own)


def add_autoencoder(parser: "argparse._ArgumentGroup") -> None:
    """The argument that makes pictures of latents."""
    parser.add_argument(
        "--autoencoder",
        metavar="VAE",
        help="of latents: an AutoencoderKL of diffusers, a folder or a name on the hub",
    )


def request_of(args: argparse.Namespace) -> FeatureRequest:
    """The request that the command line makes."""
    return FeatureRequest(args.features, args.num_real, args.cache, args.autoencoder)


def open_autoencoder(model: str | None, dataset: Dataset) -> Autoencoder | None:
    """The autoencoder that was named; None if none was.

    Raises:
        SettingError: the data are no latents.
    """
    if model is None:
        return None
    latents = len(dataset.info.image_shape) == 3 and dataset.info.max_value is None
    allowed = f"nothing for data.name {dataset.info.name!r}, which are no latents"
    require(latents, "--autoencoder", model, allowed)
    return DiffusersAutoencoder(model)


def open_network(request: FeatureRequest, setup: Setup) -> FeatureNetwork:
    """The network that looks at examples of a run's data, in raw units.

    Raises:
        SettingError: it is not for such data, or a file is missing or does not fit.
    """
    dataset = setup.dataset
    info, cache = dataset.info, request.cache.expanduser()
    autoencoder = open_autoencoder(request.autoencoder, dataset)
    if request.kind == PIXELS:
        allowed = "nothing with --features=pixels, which are the latents themselves"
        require(autoencoder is None, "--autoencoder", request.autoencoder, allowed)
        return PixelFeatures(info.image_shape, info.max_value)
    allowed = f"{PIXELS} for data.name {info.name!r}, which are points"
    require(len(info.image_shape) == 3, "--features", request.kind, allowed)
    if request.kind == "proxy":
        network: FeatureNetwork = load_proxy(dataset, setup.data, cache)
    else:
        network = InceptionFeatures(Path(request.kind.partition(":")[2]).expanduser())
    if info.max_value:
        return ShownFeatures(network, functools.partial(to_8bit, max_value=info.max_value))
    if autoencoder is None:
        raise SettingError(
            f"--features is {request.kind!r} and data.name {info.name!r} are latents; allowed: to "
            "name with --autoencoder what makes pictures of them"
        )
    return ShownFeatures(network, autoencoder.decode, f"latents decoded by {autoencoder.name}")


def sample_summary(network: FeatureNetwork, samples: np.ndarray) -> Summary:
    """Of samples in raw units, rounded to the levels of the data."""
    pixels = isinstance(network, PixelFeatures)
    size = _PIXELS_TOGETHER if pixels else _TOGETHER
    batches = (samples[i : i + size] for i in range(0, len(samples), size))
    if pixels:
        return summarise(network, batches)
    with tqdm(total=len(samples), desc="features of samples", unit="image") as bar:
        return summarise(network, batches, keep=None, logits=True, progress=bar.update)


def real_summary(network: FeatureNetwork, setup: Setup, request: FeatureRequest) -> Summary:
    """Of the run's real images; read from the cache if they have been looked at before.

    Raises:
        SettingError: there are not as many, or what is in the cache is of something else.
    """
    dataset = setup.dataset
    info, count = dataset.info, request.num_real or len(dataset.source)
    require(count <= info.size, "--num_real", count, f"at most {info.size}, all there are")
    # Drawn at random, as the first of a set are often of the first classes.
    order = np.random.default_rng(0).permutation(info.size)[:count]
    pixels = isinstance(network, PixelFeatures)
    batches = _read(dataset, order, _PIXELS_TOGETHER if pixels else _TOGETHER)
    if pixels:
        return summarise(network, batches)
    about = {"data": info.name, "split": setup.data.split, "fingerprint": info.fingerprint}
    name = re.sub(r"[^A-Za-z0-9]+", "-", network.name.partition(", latents")[0]).strip("-")
    known = fingerprint(network.name.encode())[:8]
    file = request.cache.expanduser() / (
        f"real-{info.name}-{setup.data.split}-{info.fingerprint}-{name}-{known}-{count}.npz"
    )
    if file.is_file():
        return read_summary(file, network.name, count, about)
    with tqdm(total=count, desc="features of real images", unit="image") as bar:
        found = summarise(network, batches, keep=KEPT, progress=bar.update)
    write_summary(file, found, about)
    return found


def _read(dataset: Dataset, order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (dataset.source.read(order[i : i + size])["image"] for i in range(0, len(order), size))
