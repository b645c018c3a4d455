"""Likelihoods of texts: bounds of masked models, cross entropies of autoregressive ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax import keys
from dbjax.devices import to_device
from dbjax.noise import LogNormalNoise, MaskingNoise
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
    added, entropy = _integrate(
        task.density, blocks, edges, tokens, looks, batch_size, seed, progress
    )
    # At t = 0 a token is still masked with probability eps; it is counted as a guess.
    constant = task.noise.eps * np.log(vocabulary)
    return {
        **_summary(added.sum(axis=0) + constant, tokens),
        "looks": looks,
        "by_block": [
            {
                "block": b,
                "share": float(share),
                "nats_per_token": float(added[b].mean()),
                "cross_entropy": float(entropy[b]),
            }
            for b, share in enumerate(np.diff(edges))
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
    return _summary(texts, tokens)


class Refining(Autoregressive, Protocol):
    """A task of next tokens as embeddings that are denoised."""

    @property
    def noise(self) -> LogNormalNoise:
        """On the embeddings."""

    def squared_error(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        sigma: Float[Array, " batch"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch length"]:
        """|y - E[y | z]|^2 of each token at sigma."""


def walk_bound(
    task: Refining,
    blocks: Mapping[int, Params],
    tokens: Int[np.ndarray, "size length"],
    *,
    looks: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """The negative evidence bound of each next token under the walk of all blocks.

    Kingma et al. 2021 (arXiv 2107.00630), equation 12 in the limit of many steps, with embeddings
    as in Gulrajani and Hashimoto 2023 (arXiv 2305.18619). With y the token's row and D the mean of
    the rows under the logits of the block that owns sigma,

        -ln p(x_i | x_<i) <= |y|^2 / (2 sigma_max^2) + int E|y - D|^2 / sigma^2 d ln sigma
                             + E[-ln p(x_i | z at sigma_min)].

    It is tight where every block knows the posterior. So unlike the cross entropy at pure noise,
    which is the noisiest block's alone, it is of the whole model, and an upper bound for it.

    Args:
        task: of next tokens, as embeddings.
        blocks: weights of every block.
        tokens: the texts; none is left out.
        looks: noises of each text and block that are averaged over.
        batch_size: texts that are looked at together.
        seed: of levels and noise, the same for every model.
        progress: told the number of texts after each batch.

    Returns:
        `nats_per_token`; `standard_error` of it, over texts; `num_tokens`; `looks`; `prior`, the
        first term; `read_out`, the last; `by_block`, rows of "block", the "nats_per_token" that its
        levels add and its mean "squared_error" over ln sigma.
    """
    noise = task.noise
    # From noise to clean, as blocks are counted, so the coordinate rises with u.
    edges = [-float(noise.natural(float(u))) for u in task.partition.edges]

    def density(params: Params, batch: Array, x: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        sigma = jnp.exp(-x)
        error = task.squared_error(params, batch, sigma, key).mean(axis=1)
        return error / sigma**2, jnp.mean(error)

    added, error = _integrate(density, blocks, edges, tokens, looks, batch_size, seed, progress)
    read = next_token_entropy(task, blocks, tokens, u=1.0, batch_size=batch_size, seed=seed)
    prior, read_out = 0.5 / noise.sigma_max**2, read["nats_per_token"]
    return {
        **_summary(added.sum(axis=0) + prior + read_out, tokens),
        "looks": looks,
        "prior": prior,
        "read_out": read_out,
        "by_block": [
            {
                "block": b,
                "nats_per_token": float(nats.mean()),
                "squared_error": float(error[b]),
            }
            for b, nats in enumerate(added)
        ],
    }


def _integrate(
    density: Callable[[Params, Array, Array, PRNGKeyArray], tuple[Array, Array]],
    blocks: Mapping[int, Params],
    edges: Sequence[float],
    tokens: Int[np.ndarray, "size length"],
    looks: int,
    batch_size: int,
    seed: int,
    progress: Callable[[int], object],
) -> tuple[Float[np.ndarray, "blocks size"], Float[np.ndarray, " blocks"]]:
    """The integral of a density over each block's interval, of each text, by drawing from it.

    Within a batch the draws are spread evenly.

    Args:
        density: of (params, texts, where in the interval, key), for each text; and a number for the
            batch.
        blocks: weights of every block.
        edges: of the intervals, rising.
        tokens: the texts.
        looks: draws for each text and block.
        batch_size: texts that are looked at together.
        seed: of the draws.
        progress: told the number of texts after each batch.

    Returns:
        The integrals, and the mean of the number over each block's batches.
    """
    look = jax.jit(density)
    shares = np.diff(edges)
    size = looks * len(tokens)
    batch_size = min(batch_size, size)
    total = np.zeros((len(shares), size))
    told = np.zeros(len(shares))
    for b in range(len(shares)):
        params = to_device(blocks[b])
        interval = jnp.asarray(edges[b : b + 2], jnp.float32)
        seen = []
        for start in range(0, size, batch_size):
            # Every batch has the full size, so that one compiled program serves them all.
            index = np.arange(start, start + batch_size) % len(tokens)
            where_key, noise_key = jax.random.split(keys.derive(seed, "likelihood", b, start))
            where = spread_u(where_key, batch_size, interval)
            found, number = look(params, jnp.asarray(tokens[index]), where, noise_key)
            count = min(batch_size, size - start)
            total[b, start : start + count] = shares[b] * np.asarray(found)[:count]
            seen.append(float(number))
            progress(count)
        told[b] = np.mean(seen)
    return total.reshape(len(shares), looks, -1).mean(axis=1), told


def _summary(
    texts: Float[np.ndarray, " size"], tokens: Int[np.ndarray, "size length"]
) -> dict[str, Any]:
    return {
        "nats_per_token": float(texts.mean()),
        "standard_error": float(texts.std() / np.sqrt(len(texts))),
        "num_tokens": int(tokens.size),
    }
