"""Operations against counts by hand, and against what families are known to do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dbjax.build import build
from dbjax.config import load_config
from dbjax.flops import count_flops, prediction_flops, update_flops

VIT = {"model.depth": 3, "model.width": 8, "model.num_heads": 2, "model.mlp_hidden": 16}
BATCH, DIGITS, CLASSES = 4, (8, 8, 1), 10


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def setup(file, **overrides):
    return build(load_config(f"configs/{file}", {**VIT, **overrides}))


def batch(*views):
    return {
        "image": jax.ShapeDtypeStruct((BATCH, *views, *DIGITS), np.uint8),
        "label": jax.ShapeDtypeStruct((BATCH,), jnp.int32),
    }


def one_update(setup, *views):
    return update_flops(setup.trainer, batch(*views))


def one_prediction(setup, size=BATCH):
    images = jax.ShapeDtypeStruct((size, *DIGITS), np.uint8)
    return prediction_flops(setup.task, setup.sampling, images)


def test_a_product_is_two_operations_for_each_of_its_terms():
    assert count_flops(jnp.matmul, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    assert count_flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
                       shape(4, 3, 5), shape(4, 5, 7)) == 4 * 2 * 3 * 5 * 7  # fmt: skip


def test_gradients_of_a_product_are_two_more():
    def loss(w, x):
        return jnp.sum((x @ w) ** 2)

    forward = 2 * 3 * 5 * 7
    assert count_flops(jax.grad(loss), shape(5, 7), shape(3, 5)) == 2 * forward
    assert count_flops(jax.grad(loss, argnums=(0, 1)), shape(5, 7), shape(3, 5)) == 3 * forward


def test_a_loop_counts_as_often_as_it_runs():
    def walk(x, layers):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, layers)[0]

    product = 2 * 3 * 5 * 5
    sizes = shape(3, 5), shape(6, 5, 5)
    assert count_flops(walk, *sizes) == 6 * product
    assert count_flops(jax.jit(walk), *sizes) == 6 * product
    assert count_flops(lambda x, w: jax.lax.map(lambda s: walk(s * x, w), jnp.arange(4.0)),
                       *sizes) == 4 * 6 * product  # fmt: skip
    assert count_flops(lambda x, w: jax.lax.fori_loop(0, 6, lambda i, x: x @ w[i], x),
                       *sizes) == 6 * product  # fmt: skip


def test_what_is_computed_again_counts_again():
    def loss(layers, x, remat):
        def layer(x, w):
            return jnp.tanh(x @ w), None

        layer = jax.checkpoint(layer) if remat else layer
        return jnp.sum(jax.lax.scan(layer, x, layers)[0])

    def flops(remat):
        gradient = jax.grad(lambda w, x: loss(w, x, remat), argnums=(0, 1))
        return count_flops(gradient, shape(6, 5, 5), shape(3, 5))

    assert flops(True) * 3 == flops(False) * 4 == 3 * 4 * 6 * 2 * 3 * 5 * 5


def test_of_branches_the_largest_counts_and_of_custom_gradients_the_function():
    def branch(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ w @ w, lambda x: x @ w, x)

    assert count_flops(branch, shape(3, 5), shape(5, 5)) == 2 * (2 * 3 * 5 * 5)
    custom = jax.custom_vjp(jnp.matmul)
    custom.defvjp(lambda x, w: (x @ w, w), lambda w, g: (g @ w.T, w))
    assert count_flops(custom, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7


def test_a_loop_of_unknown_length_is_refused_only_with_products():
    def grow(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ w, x)

    with pytest.raises(ValueError, match="unknown length"):
        count_flops(grow, shape(5, 5), shape(5, 5))
    assert count_flops(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x + 1, x),
                       shape()) == 0  # fmt: skip


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("stride", "dilation", "padding", "taps"),
    [
        (1, 1, "VALID", (4 * 3) ** 2),
        # Of 6 windows the outer two lose a tap each.
        (1, 1, "SAME", (6 * 3 - 2) ** 2),
        # Windows at 0, 2 and 4; the last one reaches one too far.
        (2, 1, "SAME", (3 * 3 - 1) ** 2),
        (1, 2, "VALID", (2 * 3) ** 2),
    ],
)
def test_convolutions_and_their_gradients(stride, dilation, padding, taps, groups):
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (stride,) * 2, padding, rhs_dilation=(dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
        )  # fmt: skip

    sizes = shape(5, 6, 6, 4), shape(3, 3, 4 // groups, 8)
    forward = 2 * 5 * taps * 4 // groups * 8
    assert count_flops(convolve, *sizes) == forward
    gradient = jax.grad(lambda x, w: jnp.sum(convolve(x, w) ** 2), argnums=(0, 1))
    assert count_flops(gradient, *sizes) == 3 * forward


def vit_flops(tokens, patch_values, width, hidden, depth, num_classes):
    """Of one image in a plain ViT: patches, then for each layer four projections, two products of
    attention and two of the MLP, then the head on one token."""
    layer = 4 * width * width + 2 * tokens * width + 2 * width * hidden
    patches = (tokens - 1) * patch_values * width
    return 2 * (patches + depth * tokens * layer + width * num_classes)


def test_a_vit_by_hand():
    found = setup("vit_digits.py:end_to_end")
    assert one_prediction(found) == vit_flops(17, 4, 8, 16, 3, CLASSES)
    # Backwards twice as much, but images have no gradient.
    patches = 2 * BATCH * 16 * 4 * 8
    forward = BATCH * vit_flops(17, 4, 8, 16, 3, CLASSES)
    assert one_update(found) == [3 * forward - patches]


def test_blocks_of_one_shape_cost_the_same_and_others_by_their_layers():
    even = one_update(setup("vit_digits.py:blocks"))
    assert len(even) == 3 and len(set(even)) == 1
    uneven = one_update(setup("vit_digits.py:blocks", **{"partition.layers": (1, 1, 2),
                                                         "model.depth": 4}))  # fmt: skip
    assert uneven[0] == uneven[1] == even[0] < uneven[2] < 2 * even[0]


def test_remat_runs_the_layers_once_more_up_to_their_last_product():
    found = setup("vit_digits.py:end_to_end")
    again = setup("vit_digits.py:end_to_end", **{"training.remat": "all"})
    layers = vit_flops(17, 0, 8, 16, 3, 0) - 3 * 2 * 17 * 16 * 8
    assert one_update(again)[0] - one_update(found)[0] == BATCH * layers


def test_forward_forward_passes_once_for_each_class_and_walks_every_layer():
    three, six = (setup("ff_digits.py:forward_forward", **{"model.depth": d}) for d in (3, 6))
    added = one_prediction(six) - one_prediction(three)
    layer = vit_flops(5, 0, 8, 16, 1, 0)
    assert added == CLASSES * 3 * layer
    # Right and wrong labels, forward and backward, but no gradient leaves a layer: what the
    # attention and the MLP hand back within the layer is still needed.
    steps = one_update(six)[0] - one_update(three)[0]
    assert 2 * 2 < steps / (BATCH * 3 * layer) <= 2 * 3


def test_two_views_cost_twice_as_much():
    found = setup("ff_digits.py:contrastive")
    once, twice = (one_update(found, views)[0] for views in (1, 2))
    assert 2 * once <= twice < 2.1 * once


def test_a_walk_costs_its_steps_guidance_and_second_calls():
    found = setup("vit_digits.py:blocks")

    def cost(**sampling):
        config = dataclasses.replace(found.sampling, **sampling)
        return one_prediction(dataclasses.replace(found, sampling=config))

    assert cost(num_steps=6) == 2 * cost()
    assert cost(solver="heun") * 3 == cost() * 5
    assert cost() < cost(guidance=2.0) <= 2 * cost()
    assert cost(batch_size=7) == cost()
