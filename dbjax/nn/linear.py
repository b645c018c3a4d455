"""Affine layers with the initial weights that transformers use: float32, biases at zero.

Each is `flax.nnx.Linear`, called as (in_features, out_features, dtype=, rngs=); `dtype` is what the
matrices are multiplied in.
"""

import functools

from flax import nnx

xavier_linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.xavier_uniform())
"""Weights uniform in +-sqrt(6 / (in + out)) (Glorot and Bengio 2010, eq. 16).

The bound is that of the whole matrix: maps fused into one have a smaller bound than apart.
"""

normal_linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.normal(0.02))
"""Weights drawn from N(0, 0.02^2)."""

zero_linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.zeros_init())
"""Weights zero, so that what the layer adds or gates starts absent."""
