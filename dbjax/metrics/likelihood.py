"""Likelihoods of texts: bounds of masked models, cross entropies of autoregressive ones."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax import keys
from dbjax.devices import to_device
from dbjax.noise import MaskingNoise
from dbjax.task import Params, Task, spread_u


class Masked(Task, Protocol):
    """A task of masked tokens."""

    @property
    def noise(self) -> MaskingNoise:
        """The masking."""

    def density(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        u: Float[Array, " batch"],
        noise_key: PRNGKeyArray,
    ) -> tuple[Float[Array, " batch"], Float[Array, ""]]:
        """What u adds to the bound, in nats per token, and the cross entropy of masked tokens."""


def evidence_bound(
    task: Masked,
    blocks: Mapping[int, Params],
    tokens: Int[np.ndarray, "size length"],
    vocabulary: int,
    *,
    looks: int = 1,
    batch_size: int = 128,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """The negative evidence bound of whole texts (Shi et al. 2024, equation 5), an upper bound.

    Every text is masked `looks` times for each block, at a u of the block's own share, without
    overlap: the shares' integrals add up to the bound. Within a batch u is spread evenly.

    Args:
        task: of masked tokens.
        blocks: weights of every block.
        tokens: the texts; none is left out.
        vocabulary: number of different tokens.
        looks: masks of each text and block that are averaged over.
        batch_size: texts that are looked at together.
        seed: of times and masks, the same for every model.
        progress: told the number of texts after each batch.

    Returns:
        `nats_per_token`; `standard_error` of it, over texts; `num_tokens`; `looks`; `by_block`,
        rows of "block", its "share" of u, the "nats_per_token" it adds and its mean
        "cross_entropy" in nats per masked token.
    """
    edges = task.partition.edges
    shares = np.diff(edges)
    look = jax.jit(lambda params, batch, u, key: task.density(params, batch, u, key))
    size = looks * len(tokens)
    batch_size = min(batch_size, size)
    total = np.zeros((len(shares), size))
    entropy = np.zeros(len(shares))
    for b in range(len(shares)):
        params = to_device(blocks[b])
        interval = jnp.asarray(edges[b : b + 2], jnp.float32)
        seen = []
        for start in range(0, size, batch_size):
            # Every batch has the full size, so that one compiled program serves them all.
            index = np.arange(start, start + batch_size) % len(tokens)
            u_key, noise_key = jax.random.split(keys.derive(seed, "likelihood", b, start))
            u = spread_u(u_key, batch_size, interval)
            density, per_token = look(params, jnp.asarray(tokens[index]), u, noise_key)
            count = min(batch_size, size - start)
            total[b, start : start + count] = shares[b] * np.asarray(density)[:count]
            seen.append(float(per_token))
            progress(count)
        entropy[b] = np.mean(seen)
    # At t = 0 a token is still masked with probability eps; it is counted as a guess.
    constant = task.noise.eps * np.log(vocabulary)
    texts = total.sum(axis=0).reshape(looks, -1).mean(axis=0) + constant
    return {
        "nats_per_token": float(texts.mean()),
        "standard_error": float(texts.std() / np.sqrt(len(texts))),
        "num_tokens": int(tokens.size),
        "looks": looks,
        "by_block": [
            {
                "block": b,
                "share": float(shares[b]),
                "nats_per_token": float(total[b].mean()),
                "cross_entropy": float(entropy[b]),
            }
            for b in range(len(shares))
        ],
    }


class Autoregressive(Task, Protocol):
    """A task of next tokens."""

    def entropy(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        u: Float[Array, " batch"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch length"]:
        """Nats of each token at u, given those before it, by the block that owns u."""


def next_token_entropy(
    task: Autoregressive,
    blocks: Mapping[int, Params],
    tokens: Int[np.ndarray, "size length"],
    *,
    u: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Cross entropy of each next token, by the block that owns u.

    At u = 0 z is a draw from the prior and tells nothing of the token, and this is the negative
    log-likelihood of a language model: of the noisiest block, and of a plain model, which knows no
    noise (that of a mean over draws would be a little less, so it is an upper bound). At other
    levels z helps, so that the figure says how well a block reads it and bounds nothing.

    Args:
        task: of next tokens.
        blocks: weights of every block.
        tokens: the texts; none is left out.
        u: where on the way from noise to clean.
        batch_size: texts that are looked at together.
        seed: of the noise.
        progress: told the number of texts after each batch.

    Returns:
        `nats_per_token`; `standard_error` of it, over texts; `num_tokens`.
    """
    params = to_device(blocks[task.partition.block_of(u)])
    look = jax.jit(task.entropy)
    size = len(tokens)
    batch_size = min(batch_size, size)
    texts = np.zeros(size)
    for start in range(0, size, batch_size):
        # Every batch has the full size, so that one compiled program serves them all.
        index = np.arange(start, start + batch_size) % size
        key = keys.derive(seed, "likelihood", start)
        levels = jnp.full(batch_size, u, jnp.float32)
        count = min(batch_size, size - start)
        nats = np.asarray(look(params, jnp.asarray(tokens[index]), levels, key))
        texts[start : start + count] = nats.mean(axis=1)[:count]
        progress(count)
    return {
        "nats_per_token": float(texts.mean()),
        "standard_error": float(texts.std() / np.sqrt(size)),
        "num_tokens": int(tokens.size),
    }
