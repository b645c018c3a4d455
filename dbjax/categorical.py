"""Draws of a class from logits."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray


def draw(
    key: PRNGKeyArray, logits: Float[Array, "*batch classes"], temperature: float = 1.0
) -> Int[Array, "*batch"]:
    """A class for each row: softmax(logits / temperature), or the likeliest at temperature 0.

    Float32 draws by the Gumbel trick never give a class of probability below about 1e-8, which
    sharpens what is drawn in many small steps (Shi et al. 2024, appendix G; Zheng et al. 2024,
    arXiv 2409.02908). Here the noise has twice the random bits, which resolves them.
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    scaled = logits.astype(jnp.float32) / temperature
    return jax.random.categorical(key, scaled, mode="high").astype(jnp.int32)


def nucleus(logits: Float[Array, "*batch classes"], top_p: float) -> Float[Array, "*batch classes"]:
    """Logits with all but the likeliest classes at minus infinity (Holtzman et al. 2020).

    Kept are the fewest classes whose probabilities add up to `top_p`; 1 keeps all.
    """
    if top_p >= 1:
        return logits
    descending = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # The smallest logit still kept; the likeliest class always is.
    last = jnp.maximum(jnp.sum(before < top_p, axis=-1, keepdims=True), 1) - 1
    threshold = jnp.take_along_axis(descending, last, axis=-1)
    return jnp.where(logits >= threshold, logits, -jnp.inf)
