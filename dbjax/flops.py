"""Floating-point operations of training and of predictions, counted from the traced programs.

Only matrix products and convolutions count, a multiplication and an addition each, as is usual for
networks; of the rest there is little. Nothing is compiled, so the figures hold for every backend.
The estimates of XLA and `jax.experimental.roofline` count the body of a loop once (jax issue 18672,
discussion 41384); here it counts as often as it runs.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from dbjax.sampling import Sampler, SamplingConfig
from dbjax.task import Batch, Task
from dbjax.training import Trainer


def count_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations of one call.

    Args:
        function: anything that jax can trace. Of the branches of a `cond` the largest counts.
        arguments: arrays or their shapes.

    Raises:
        ValueError: for matrix products in a loop whose length is known only when it runs.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def update_flops(trainer: Trainer, batch: Batch) -> list[int]:
    """Operations of one update of each block, as it runs: with what remat computes again.

    Args:
        trainer: what updates the blocks.
        batch: one batch of one block, arrays or their shapes, [batch, ...].
    """
    counted: dict[str, int] = {}
    result = []
    for block in range(trainer.task.partition.num_blocks):
        state = jax.eval_shape(functools.partial(trainer.init, block))
        remat = block in trainer.remat
        # Blocks of one shape run one program.
        kind = str((state, remat))
        if kind not in counted:
            update = functools.partial(trainer.update, remat=remat)
            number = jax.ShapeDtypeStruct((), jnp.int32)
            counted[kind] = count_flops(update, state, batch, number, trainer.interval(block))
        result.append(counted[kind])
    return result


def prediction_flops(task: Task, config: SamplingConfig, images: jax.ShapeDtypeStruct) -> float:
    """Operations of one walk of a classifier, for one image.

    Args:
        task: the classifier.
        config: grid, steps, solver, guidance.
        images: the shape of images that are classified together, [batch, height, width, channels].
            What does not depend on the images is shared out among them.
    """
    calls = Sampler(task, config).calls
    batch = images.shape[0]
    z = jax.eval_shape(lambda key: task.prior(key, batch), jax.random.key(0))
    level = jax.ShapeDtypeStruct((batch,), jnp.float32)
    denoise = functools.partial(task.denoise, guidance=config.guidance)
    counted = 0
    for block, count in enumerate(calls):
        params = jax.eval_shape(lambda key, b=block: task.init(key, b), jax.random.key(0))
        counted += count * count_flops(denoise, params, z, level, images)
    return counted / batch


def _count(jaxpr: Any) -> int:
    """Operations of a traced program and of all programs in it."""
    return sum(map(_count_equation, jaxpr.eqns))


def _count_equation(equation: Any) -> int:
    name = equation.primitive.name
    if name in _PRODUCTS:
        return _PRODUCTS[name](equation)
    inner = [_count(jaxpr) for jaxpr in jaxprs_in_params(equation.params)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("a loop of unknown length holds matrix products: they cannot be counted")
    return sum(inner)


def _dot_general(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation: Any) -> int:
    """Of what is padding or a gap of dilation nothing counts; so a convolution and its gradients
    with respect to images and to kernels come to the same number."""
    params = equation.params
    numbers = params["dimension_numbers"]
    left, kernel = (v.aval.shape for v in equation.invars)
    out = equation.outvars[0].aval.shape
    taps = 1
    for i, (low, _) in enumerate(params["padding"]):
        size, dilation = left[numbers.lhs_spec[2 + i]], params["lhs_dilation"][i]
        starts = params["window_strides"][i] * np.arange(out[numbers.out_spec[2 + i]]) - low
        offsets = params["rhs_dilation"][i] * np.arange(kernel[numbers.rhs_spec[2 + i]])
        read, gap = np.divmod(starts[:, None] + offsets, dilation)
        taps *= int(np.sum((gap == 0) & (read >= 0) & (read < size)))
    images, features = (out[numbers.out_spec[i]] for i in (0, 1))
    return 2 * images * features * kernel[numbers.rhs_spec[1]] * taps


_PRODUCTS = {"dot_general": _dot_general, "conv_general_dilated": _convolution}
