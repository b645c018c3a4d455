"""A proxy for the Inception network: a small classifier that is trained on the real data at hand.

It needs no download and knows what matters in the data, as pixels do not. Distances in its features
tell runs on the same data apart and compare with nothing else, least of all with a published FID.
"""

import functools
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from dbjax import session
from dbjax.classification import Answer, ClassificationTask
from dbjax.data import DataConfig, Dataset, fingerprint
from dbjax.errors import require
from dbjax.metrics.image_features import Features
from dbjax.metrics.weights import weights_checksum
from dbjax.noise import LogNormalNoise
from dbjax.optimizer import OptimizerConfig, make_optimizer
from dbjax.partition import PartitionConfig, make_partition
from dbjax.placement import PlacementConfig
from dbjax.training import Trainer

CHANNELS = (32, 64, 128)
STEPS = 1000
_OPTIMIZER = OptimizerConfig(
    learning_rate=2e-3, weight_decay=0.05, warmup_steps=50, schedule="cosine", ema_decay=0.0
)
_BATCH = 128
_TOGETHER = 500  # images that pass through the network together


class ProxyFeatures:
    """Features of a small classifier, and its logits.

    Attributes:
        name: "proxy (<data>, weights <checksum>)".
        size: of a vector.
    """

    size = CHANNELS[-1]

    def __init__(self, task: ClassificationTask, params: Any, data: str, max_value: float) -> None:
        """Wraps what `load_proxy` has trained or read."""
        self._task, self._params, self._max_value = task, params, max_value
        named = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(params)}
        self.name = f"proxy ({data}, weights {weights_checksum(named)})"

    def features(self, images: UInt8[np.ndarray, "images height width channels"]) -> Features:
        """Looks at images as they were trained on, rounded to 8 bits."""
        raw = images.astype(np.float32) * (self._max_value / 255)
        parts = [
            jax.device_get(_run(self._task, self._params, raw[start : start + _TOGETHER]))
            for start in range(0, len(raw), _TOGETHER)
        ]
        vectors, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Features(vectors, logits=logits)


def load_proxy(
    dataset: Dataset, data: DataConfig, cache: Path, *, steps: int = STEPS
) -> ProxyFeatures:
    """The proxy for a data set, trained at the first call.

    Its draws depend on nothing but the data, so that all runs on them have the same proxy.

    Args:
        dataset: real images with labels, all of a split.
        data: which they are.
        cache: folder for the weights, in a file named after the data's fingerprint.
        steps: of training.

    Raises:
        SettingError: the data are not images of known levels, or have no labels.
    """
    info = dataset.info
    require(
        bool(info.max_value) and info.num_classes > 1,
        "--features",
        "proxy",
        f"pixels for data.name {info.name!r}, which are not images of known levels with labels",
    )
    noise = LogNormalNoise()
    partition = make_partition(PartitionConfig(num_blocks=1), noise, 1)
    network = _Network(info.image_shape, info.num_classes)
    task = ClassificationTask(network, noise, partition, info.mean, info.std)
    trainer = Trainer(task, make_optimizer(_OPTIMIZER, steps), _OPTIMIZER.ema_decay, seed=0)
    recipe = f"{info.fingerprint} {data.split} {CHANNELS} {steps} {_BATCH} {_OPTIMIZER}"
    file = cache / f"proxy-{info.name}-{fingerprint(recipe.encode())}.npz"
    shape = jax.eval_shape(functools.partial(trainer.init, 0)).params
    if file.is_file():
        with np.load(file) as arrays:
            leaves = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
        params = jax.tree.unflatten(jax.tree.structure(shape), leaves)
    else:
        # Shifted a little, since small sets are soon learnt by heart.
        own = DataConfig(
            name=data.name, data_dir=data.data_dir, split=data.split, batch_size=_BATCH,
            crop=info.image_shape[0] // 8,
        )  # fmt: skip
        title = f"train the proxy for {info.name}"
        model = session.run(trainer, dataset, own, PlacementConfig(), steps=steps, title=title)
        params = jax.device_get(model.blocks[0])
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.tmp")
        with temporary.open("wb") as opened:
            np.savez(opened, *jax.tree.leaves(params))
        temporary.replace(file)
    about = f"{info.name} {data.split} {info.fingerprint[:8]}"
    return ProxyFeatures(task, params, about, float(info.max_value or 1))


class _Layers(nnx.Module):
    """Three convolutions, each but the first halving the size, and a head on the mean.

    They are products of matrices and patches, whose gradients CPUs are far quicker at.
    """

    def __init__(self, channels: int, num_classes: int, *, rngs: nnx.Rngs) -> None:
        widths = (channels, *CHANNELS)
        self.convolutions = nnx.List(
            nnx.Linear(9 * before, after, rngs=rngs) for before, after in itertools.pairwise(widths)
        )
        self.norms = nnx.List(nnx.LayerNorm(width, rngs=rngs) for width in CHANNELS)
        self.head = nnx.Linear(CHANNELS[-1], num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width channels"]) -> tuple[Array, Array]:
        for i, (linear, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = jax.nn.relu(norm(linear(_patches(x, stride=1 if i == 0 else 2))))
        vectors = jnp.mean(x, axis=(1, 2))
        return vectors, self.head(vectors)


def _patches(x: Float[Array, "batch height width channels"], stride: int) -> Array:
    """Of 3x3 pixels around each, zeros beyond the edge."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    shifted = [
        padded[:, top : top + height : stride, left : left + width : stride]
        for top in range(3)
        for left in range(3)
    ]
    return jnp.concatenate(shifted, axis=-1)


class _Network:
    """`_Layers` as pure functions; see `dbjax.classification.Classifier`."""

    def __init__(self, image_shape: tuple[int, ...], num_classes: int) -> None:
        self._make = functools.partial(_Layers, image_shape[-1], num_classes)
        self._definition = nnx.graphdef(nnx.eval_shape(lambda: self._make(rngs=nnx.Rngs(0))))

    def init(self, key: PRNGKeyArray, layers: Any) -> dict[str, Any]:
        del layers
        state = nnx.state(self._make(rngs=nnx.Rngs(key)), nnx.Param)
        return {"interface": {}, "layers": nnx.to_pure_dict(state)}

    def look(self, params: Any, image: Array) -> tuple[Array, Array]:
        """Vectors and logits of normalised images."""
        return nnx.merge(self._definition, params["layers"])(image)

    def classify(
        self, params: Any, image: Array, *, key: PRNGKeyArray | None = None, remat: bool = False
    ) -> Answer:
        del key, remat
        return Answer(self.look(params, image)[1])


@functools.partial(jax.jit, static_argnums=0)
def _run(task: ClassificationTask, params: Any, raw: Array) -> tuple[Array, Array]:
    network: Any = task.network
    return network.look(params, (raw - task.mean) / task.std)


def _leaves(params: Any) -> list[tuple[Any, np.ndarray]]:
    return [(path, np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
