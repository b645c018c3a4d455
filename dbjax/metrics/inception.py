"""The Inception network that FID is defined with.

Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) as TensorFlow's archive of 2015-12-05 has it.
It is not the network of the same name in torchvision, from which it differs in weights, in pools
that leave padding out of their averages, and in a pool of maxima in its last block. The names of
parameters are those of torchvision's network all the same, as the package pytorch-fid and what
builds on it have them.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from dbjax.errors import SettingError
from dbjax.metrics.image_features import Features
from dbjax.metrics.weights import read_weights, weights_checksum

SIZE, CLASSES, SIDE = 2048, 1008, 299
SPATIAL_CHANNELS = 7
"""Of the 17x17 maps that sFID is measured on (Nash et al. 2021, arXiv 2103.03841; ADM's suite)."""
_EPSILON = 1e-3  # of BatchNorm

Shape = tuple[int, ...]
Params = Mapping[str, Array]


class InceptionFeatures:
    """Features of the Inception network: vectors for FID, maps for sFID, logits for the score.

    Attributes:
        name: "inception-2015-12-05 (weights <checksum>)".
        size: of a vector.
    """

    size = SIZE

    def __init__(self, file: Path, *, batch_size: int = 64) -> None:
        """Reads the weights.

        Args:
            file: a state dict of pytorch-fid's network, .safetensors or .pth.
            batch_size: images that pass through the network together.

        Raises:
            SettingError: the file cannot be read, or a parameter is missing, unknown or of another
                shape.
        """
        tensors = checked(read_weights(file), str(file))
        self._params = fold(tensors)
        self._batch_size = batch_size
        self.name = f"inception-2015-12-05 (weights {weights_checksum(tensors)})"

    def features(self, images: UInt8[np.ndarray, "images height width channels"]) -> Features:
        """Runs the network; gray images are shown in three equal channels."""
        size = self._batch_size
        found = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            # The last batch is filled up, so that one compiled program serves them all.
            full = batch[np.arange(size) % len(batch)]
            outputs = jax.device_get(_run(self._params, full))
            found.append([np.asarray(x)[: len(batch)] for x in outputs])
        vectors, maps, logits = (np.concatenate(part) for part in zip(*found, strict=True))
        return Features(vectors, maps=maps, logits=logits)


def resize(
    images: Float[Array, "images height width channels"], side: int = SIDE
) -> Float[Array, "images side side channels"]:
    """Bilinear, as TensorFlow 1 does it by default.

    Point i of the result is at i * height / side: corners are not aligned, pixels are points at
    their upper left corner, and nothing is averaged where images shrink.
    """
    for axis in (1, 2):
        size = images.shape[axis]
        at = np.arange(side, dtype=np.float32) * np.float32(size / side)
        low = np.floor(at).astype(np.int32)
        high = np.minimum(low + 1, size - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        lower, upper = jnp.take(images, low, axis), jnp.take(images, high, axis)
        images = lower + (upper - lower) * share
    return images


def checked(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """The parameters of the network, once they are known to be all there.

    Raises:
        SettingError: one is missing, unknown or of another shape.
    """
    shapes = parameter_shapes()
    # Counters, and a head for training that some files keep.
    ignored = ("num_batches_tracked", "AuxLogits.")
    for name in tensors:
        if name not in shapes and not any(part in name for part in ignored):
            raise SettingError(
                f"{source} holds {name}, which the Inception network of FID does not have; "
                "allowed: the state dict of pytorch-fid's network"
            )
    for name, shape in shapes.items():
        found = tensors[name].shape if name in tensors else "not there"
        if found != shape:
            raise SettingError(
                f"{name} of {source} is {found}; allowed: {shape}, as in the state dict of "
                "pytorch-fid's network"
            )
    return {name: np.asarray(tensors[name], np.float32) for name in shapes}


@functools.cache
def parameter_shapes() -> dict[str, Shape]:
    """Names and shapes of all parameters, as PyTorch has them: kernels are [out, in, h, w]."""
    shapes: dict[str, Shape] = {}

    def listed(
        x: Array, name: str, width: int, kernel: Shape = (1, 1), stride: int = 1, pad: bool = False
    ) -> Array:
        shapes[f"{name}.conv.weight"] = (width, x.shape[-1], *kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (width,)
        zeros = jnp.zeros((*kernel, x.shape[-1], width))
        return _convolve(x, zeros, stride, pad)

    jax.eval_shape(
        functools.partial(_network, listed), jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    )
    return {**shapes, "fc.weight": (CLASSES, SIZE), "fc.bias": (CLASSES,)}


def fold(tensors: Mapping[str, np.ndarray]) -> dict[str, Array]:
    """Kernels [h, w, in, out] that BatchNorm is multiplied into, and the biases it leaves.

    The bias of the logits is left out: the Inception score of ADM's suite is without it.
    """
    params = {"fc": jnp.asarray(tensors["fc.weight"].T)}
    for key in tensors:
        name, _, part = key.rpartition(".conv.")
        if part == "weight":
            kernel, gamma, beta, mean, var = (
                tensors[f"{name}.{rest}"].astype(np.float64)
                for rest in (key.removeprefix(f"{name}."), "bn.weight", "bn.bias",
                             "bn.running_mean", "bn.running_var")
            )  # fmt: skip
            scale = gamma / np.sqrt(var + _EPSILON)
            kernel = kernel.transpose(2, 3, 1, 0) * scale
            params[f"{name}.kernel"] = jnp.asarray(kernel, jnp.float32)
            params[f"{name}.bias"] = jnp.asarray(beta - mean * scale, jnp.float32)
    return params


def forward(
    params: Params, x: Float[Array, "images height width 3"]
) -> tuple[Float[Array, "images 2048"], Float[Array, "images _"], Float[Array, "images 1008"]]:
    """Vectors (pool_3), the first maps of mixed_6/conv, logits without bias.

    Args:
        params: as `fold` gives them.
        x: (pixel - 128) / 128, of any size from 75 on.
    """

    def folded(
        x: Array, name: str, width: int, kernel: Shape = (1, 1), stride: int = 1, pad: bool = False
    ) -> Array:
        del width, kernel
        x = _convolve(x, params[f"{name}.kernel"], stride, pad)
        return jax.nn.relu(x + params[f"{name}.bias"].reshape(1, 1, 1, -1))

    vectors, maps = _network(folded, x)
    logits = jnp.dot(vectors, params["fc"], precision=jax.lax.Precision.HIGHEST)
    return vectors, maps.reshape(len(maps), -1), logits


@jax.jit
def _run(
    params: Params, images: UInt8[Array, "images height width channels"]
) -> tuple[Array, Array, Array]:
    x = resize(images.astype(jnp.float32))
    x = jnp.broadcast_to(x, (*x.shape[:3], 3))
    return forward(params, (x - 128) / 128)


# --- the graph ------------------------------------------------------------------------------------


@runtime_checkable
class _Conv(Protocol):
    """Convolution without bias, BatchNorm and ReLU."""

    def __call__(
        self,
        x: Array,
        name: str,
        width: int,
        kernel: Shape = (1, 1),
        stride: int = 1,
        pad: bool = False,
    ) -> Array: ...


Pool = Callable[[Array], Array]


def _network(conv: _Conv, x: Array) -> tuple[Array, Array]:
    """Vectors, and the maps [images, 17, 17, 7] for images of 299x299."""
    x = conv(x, "Conv2d_1a_3x3", 32, (3, 3), stride=2)
    x = conv(x, "Conv2d_2a_3x3", 32, (3, 3))
    x = conv(x, "Conv2d_2b_3x3", 64, (3, 3), pad=True)
    x = _max_pool(x, stride=2)
    x = conv(x, "Conv2d_3b_1x1", 80)
    x = conv(x, "Conv2d_4a_3x3", 192, (3, 3))
    x = _max_pool(x, stride=2)
    for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _block_a(conv, x, name, width)
    x = _block_b(conv, x, "Mixed_6a")
    maps = x
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        branches = _block_c(conv, x, name, width)
        if name == "Mixed_6d":  # mixed_6 in TensorFlow's archive
            maps = branches[0][..., :SPATIAL_CHANNELS]
        x = jnp.concatenate(branches, -1)
    x = _block_d(conv, x, "Mixed_7a")
    x = _block_e(conv, x, "Mixed_7b", _average_pool)
    x = _block_e(conv, x, "Mixed_7c", functools.partial(_max_pool, pad=True))
    return jnp.mean(x, (1, 2)), maps


def _block_a(conv: _Conv, x: Array, name: str, width: int) -> Array:
    five = conv(x, f"{name}.branch5x5_1", 48)
    twice = conv(x, f"{name}.branch3x3dbl_1", 64)
    twice = conv(twice, f"{name}.branch3x3dbl_2", 96, (3, 3), pad=True)
    return jnp.concatenate(
        [
            conv(x, f"{name}.branch1x1", 64),
            conv(five, f"{name}.branch5x5_2", 64, (5, 5), pad=True),
            conv(twice, f"{name}.branch3x3dbl_3", 96, (3, 3), pad=True),
            conv(_average_pool(x), f"{name}.branch_pool", width),
        ],
        -1,
    )


def _block_b(conv: _Conv, x: Array, name: str) -> Array:
    twice = conv(x, f"{name}.branch3x3dbl_1", 64)
    twice = conv(twice, f"{name}.branch3x3dbl_2", 96, (3, 3), pad=True)
    return jnp.concatenate(
        [
            conv(x, f"{name}.branch3x3", 384, (3, 3), stride=2),
            conv(twice, f"{name}.branch3x3dbl_3", 96, (3, 3), stride=2),
            _max_pool(x, stride=2),
        ],
        -1,
    )


def _block_c(conv: _Conv, x: Array, name: str, width: int) -> list[Array]:
    """Its branches, not yet joined."""
    seven = conv(x, f"{name}.branch7x7_1", width)
    seven = conv(seven, f"{name}.branch7x7_2", width, (1, 7), pad=True)
    twice = conv(x, f"{name}.branch7x7dbl_1", width)
    for number, kernel in ((2, (7, 1)), (3, (1, 7)), (4, (7, 1))):
        twice = conv(twice, f"{name}.branch7x7dbl_{number}", width, kernel, pad=True)
    return [
        conv(x, f"{name}.branch1x1", 192),
        conv(seven, f"{name}.branch7x7_3", 192, (7, 1), pad=True),
        conv(twice, f"{name}.branch7x7dbl_5", 192, (1, 7), pad=True),
        conv(_average_pool(x), f"{name}.branch_pool", 192),
    ]


def _block_d(conv: _Conv, x: Array, name: str) -> Array:
    three = conv(x, f"{name}.branch3x3_1", 192)
    seven = conv(x, f"{name}.branch7x7x3_1", 192)
    seven = conv(seven, f"{name}.branch7x7x3_2", 192, (1, 7), pad=True)
    seven = conv(seven, f"{name}.branch7x7x3_3", 192, (7, 1), pad=True)
    return jnp.concatenate(
        [
            conv(three, f"{name}.branch3x3_2", 320, (3, 3), stride=2),
            conv(seven, f"{name}.branch7x7x3_4", 192, (3, 3), stride=2),
            _max_pool(x, stride=2),
        ],
        -1,
    )


def _block_e(conv: _Conv, x: Array, name: str, pool: Pool) -> Array:
    three = conv(x, f"{name}.branch3x3_1", 384)
    twice = conv(x, f"{name}.branch3x3dbl_1", 448)
    twice = conv(twice, f"{name}.branch3x3dbl_2", 384, (3, 3), pad=True)
    return jnp.concatenate(
        [
            conv(x, f"{name}.branch1x1", 320),
            conv(three, f"{name}.branch3x3_2a", 384, (1, 3), pad=True),
            conv(three, f"{name}.branch3x3_2b", 384, (3, 1), pad=True),
            conv(twice, f"{name}.branch3x3dbl_3a", 384, (1, 3), pad=True),
            conv(twice, f"{name}.branch3x3dbl_3b", 384, (3, 1), pad=True),
            conv(pool(x), f"{name}.branch_pool", 192),
        ],
        -1,
    )


def _convolve(x: Array, kernel: Array, stride: int, pad: bool) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME" if pad else "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        # Accelerators would else round to fewer bits than published figures are computed with.
        precision=jax.lax.Precision.HIGHEST,
    )


def _max_pool(x: Array, stride: int = 1, pad: bool = False) -> Array:
    strides, padding = (1, stride, stride, 1), "SAME" if pad else "VALID"
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), strides, padding)


def _average_pool(x: Array) -> Array:
    """Of 3x3; padding does not count."""
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    rows, columns = (
        np.array([min(i + 2, n) - max(i - 1, 0) for i in range(n)]) for n in x.shape[1:3]
    )
    return total / np.outer(rows, columns).astype(np.float32)[np.newaxis, :, :, np.newaxis]
