"""Autoregressive language modelling: next tokens denoised by blocks, and the plain twin's task.

What networks must offer is what those of `dbjax.families.ar_lm` do, and of `recurrent_lm`.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dbjax.categorical import draw, nucleus
from dbjax.errors import require
from dbjax.noise import LogNormalNoise
from dbjax.partition import Partition
from dbjax.task import Batch, Estimate, Metrics, Params, draw_u

SIGMAS = ("sequence", "token")
READOUTS = ("head", "tied", "posterior")
BRIDGES = ("hard", "soft", "soft_normalised", "draw")
WEIGHTS = ("none", "edm")


@dataclasses.dataclass(frozen=True)
class AutoregressiveConfig:
    """The `autoregressive` section of a config; the paper states none of it but the unit rows.

    Attributes:
        sigma: one noise level for a `sequence` or one for each `token` in training.
        readout: `head`, logits from the network's output by a matrix of its own; `tied`, the
            denoised embedding D times the table of unit rows times `readout_scale`; `posterior`,
            the head's logits and what z says of each token, ln N(z; row, sigma^2), so that Bayes'
            rule is not left to learn and the head is a language model's.
        readout_scale: of tied logits, which else stay between -1 and 1.
        bridge: from logits back to an embedding, between the steps of a walk: `hard`, the row of
            the likeliest token; `soft`, the rows' mean, short where the model is unsure;
            `soft_normalised`, the same at unit norm; `draw`, the row of a token that is drawn, at
            `sampling.temperature` and `sampling.top_p`.
        weight: of the cross entropy: `none`, or `edm`, w(sigma) (paper, equation 6).
        next_token_weight: of the cross entropy of plain next-token prediction from the block's own
            clean stream, which is added to the loss.
    """

    sigma: str = "token"
    readout: str = "head"
    readout_scale: float = 20.0
    bridge: str = "hard"
    weight: str = "none"
    next_token_weight: float = 0.0

    def __post_init__(self) -> None:
        for field, names in (
            ("sigma", SIGMAS),
            ("readout", READOUTS),
            ("bridge", BRIDGES),
            ("weight", WEIGHTS),
        ):
            value = getattr(self, field)
            allowed = " or ".join(map(repr, names))
            require(value in names, f"autoregressive.{field}", value, allowed)
        scale, weight = self.readout_scale, self.next_token_weight
        require(scale > 0, "autoregressive.readout_scale", scale, "a number above 0")
        require(weight >= 0, "autoregressive.next_token_weight", weight, "0 or more")


@dataclasses.dataclass(frozen=True)
class SequenceConfig(AutoregressiveConfig):
    """The `autoregressive` section where noisy slots look at each other: one level for a text."""

    sigma: str = "sequence"

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = "'sequence' where noisy tokens look at each other"
        require(self.sigma == "sequence", "autoregressive.sigma", self.sigma, allowed)
        weight = self.next_token_weight
        allowed = "0 where there is no stream of clean tokens to predict from"
        require(weight == 0, "autoregressive.next_token_weight", weight, allowed)


@runtime_checkable
class Table(Protocol):
    """Embeddings of unit norm that tokens have as targets."""

    def rows(self, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        """The rows of tokens."""


@dataclasses.dataclass(frozen=True)
class FixedTable:
    """Random rows of unit norm: what blocks that own their interface have in common.

    Each is drawn from (key, token) when it is needed, so that no block has to hold the table.
    """

    key: PRNGKeyArray
    width: int

    def rows(self, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.key, tokens.reshape(-1))
        rows = jax.vmap(lambda key: jax.random.normal(key, (self.width,)))(keys)
        return _unit(rows).reshape(*tokens.shape, self.width)


@dataclasses.dataclass(frozen=True)
class TrainedTable:
    """Rows that blocks learn together, brought to unit norm."""

    table: Float[Array, "vocabulary width"]

    def rows(self, tokens: Int[Array, "*shape"]) -> Float[Array, "*shape width"]:
        return _unit(self.table[tokens])


@dataclasses.dataclass(frozen=True, eq=False)
class AutoregressiveTask:
    """Next tokens as embeddings that are denoised in the light of the tokens before.

    A batch holds "tokens" [batch, length]. z are noisy embeddings, [batch, length, width]: of a
    whole text whose tokens before each one are known (`Sampler` walks over all of them at once).
    `dbjax.generation` writes texts token by token.

    Attributes:
        network: two streams of a text (`dbjax.families.ar_lm.ARDenoiser`).
        noise: log-normal noise on embeddings of unit norm.
        partition: who owns which noise and which layers.
        config: levels, read-out, bridge, weights.
        length: tokens of a text in training.
        table: the fixed targets; None are rows that the interface learns, which blocks then have
            to share.
    """

    network: Any
    noise: LogNormalNoise
    partition: Partition
    config: AutoregressiveConfig
    length: int
    table: FixedTable | None = None

    @property
    def clean_level(self) -> Float[Array, ""]:
        """Noise level of the clean stream as the network reads it: that of sigma_min."""
        return self.noise.precondition(jnp.float32(self.noise.sigma_min)).c_noise

    def init(self, key: PRNGKeyArray, block: int) -> Params:
        params: Params = self.network.init(key, self.partition.layers[block])
        if not self.partition.borrows:
            return params
        # As their owners begin: layers are drawn by their index.
        layers, use = (rows[block] for rows in self.partition.borrowed())
        context = {
            "layers": self.network.init(key, layers.tolist())["layers"],
            "use": jnp.asarray(use),
        }
        return {**params, "context": context}

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Cross entropy of the denoised tokens, and of plain next-token prediction if weighted."""
        u_key, noise_key, network_key = jax.random.split(key, 3)
        tokens = batch["tokens"]
        shape = (len(tokens), 1 if self.config.sigma == "sequence" else tokens.shape[1])
        sigma = self.noise.level(draw_u(u_key, shape, interval))
        z = self.corrupt(params, noise_key, tokens, sigma)
        logits, plain = self.answer(params, z, sigma, tokens, network_key, remat)
        entropy = _entropy(logits, tokens)
        weights = self.noise.weight(sigma) if self.config.weight == "edm" else jnp.ones_like(sigma)
        loss = jnp.mean(weights * entropy)
        metrics = {"cross_entropy": jnp.mean(entropy)}
        if self.config.next_token_weight:
            metrics["next_token"] = jnp.mean(_entropy(plain(), tokens))
            loss += self.config.next_token_weight * metrics["next_token"]
        return loss, {"loss": loss, **metrics}

    def entropy(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        u: Float[Array, " batch"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch length"]:
        """Nats of each token at u, one level for a text, by the block that owns it.

        At u = 0 z is a draw from the prior, from which writing starts: it tells nothing of a token,
        and this is the negative log-likelihood of a language model, for any sigma_max.
        """
        sigma = self.noise.level(u)[:, None]
        y = jnp.where(u[:, None, None] > 0, self.targets(params).rows(tokens), 0)
        z = self._noised(key, y, sigma)
        logits, _ = self.answer(params, z, sigma, tokens)
        return _entropy(logits, tokens)

    def squared_error(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        sigma: Float[Array, " batch"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch length"]:
        """|y - E[y | z]|^2 of each token, one sigma for a text, whatever the bridge."""
        levels = sigma[:, None]
        y = self.targets(params).rows(tokens)
        logits, _ = self.answer(params, self._noised(key, y, levels), levels, tokens)
        return jnp.sum((y - self._mean(params, logits)) ** 2, axis=-1)

    def corrupt(
        self,
        params: Params,
        key: PRNGKeyArray,
        tokens: Int[Array, "batch length"],
        sigma: Float[Array, "#batch #length"],
    ) -> Float[Array, "batch length width"]:
        """z = y + sigma eps around the unit rows of tokens."""
        return self._noised(key, self.targets(params).rows(tokens), sigma)

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "batch length width"]:
        return self.noise.prior(key, (num_samples, self.length, self.network.width))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch length width"],
        level: Float[Array, " batch"],
        condition: Int[Array, "batch length"] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """Logits of each token, given those before it in `condition`, and what bridges them.

        Where the bridge draws, the likeliest token stands for the one drawn.
        """
        assert condition is not None
        logits, _ = self.answer(params, z, level[:, None], condition)
        return Estimate(self.bridge(params, logits), logits)

    def decode(self, z: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        """Embeddings are their own units."""
        return z

    def answer(
        self,
        params: Params,
        z: Float[Array, "batch length width"],
        sigma: Float[Array, "#batch #length"],
        tokens: Int[Array, "batch length"],
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> tuple[Float[Array, "batch length vocabulary"], Any]:
        """Logits of the noisy stream, and a function that gives those of the clean one."""
        c = self.noise.precondition(sigma)
        clean, noisy = self.network.apply(
            params, c.c_in[..., None] * z, c.c_noise, tokens, self.clean_level, key=key, remat=remat
        )
        interface = self.network.interface(params)
        return self.read(params, z, sigma, noisy), lambda: interface.read_out(clean)

    def read(
        self,
        params: Params,
        z: Float[Array, "batch length width"],
        sigma: Float[Array, "#batch #length"],
        hidden: Float[Array, "batch length width"],
    ) -> Float[Array, "batch length vocabulary"]:
        """Logits from the noisy stream's last features, by the head or the table."""
        if self.config.readout == "tied":
            c = self.noise.precondition(sigma)
            clean = c.c_skip[..., None] * z + c.c_out[..., None] * hidden
            return self.config.readout_scale * (clean @ self._every_row(params).T)
        logits: Array = self.network.interface(params).head(hidden)
        logits = logits.astype(jnp.float32)
        if self.config.readout == "posterior":
            # What all tokens have alike, |z|^2 and the norm of their rows, makes no difference.
            logits += (z @ self._every_row(params).T) / sigma[..., None] ** 2
        return logits

    def bridge(
        self,
        params: Params,
        logits: Float[Array, "*batch vocabulary"],
        key: PRNGKeyArray | None = None,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Float[Array, "*batch width"]:
        """The embedding that a walk goes on from; `key` and what follows are for `draw`."""
        kind = self.config.bridge
        if kind == "draw" and key is not None:
            token = draw(key, nucleus(logits, top_p), temperature)
            return self.targets(params).rows(token)
        if kind in ("hard", "draw"):
            return self.targets(params).rows(jnp.argmax(logits, axis=-1))
        mean = self._mean(params, logits)
        return _unit(mean) if kind == "soft_normalised" else mean

    def targets(self, params: Params) -> Table:
        """The table that this block aims at."""
        if self.table is not None:
            return self.table
        return TrainedTable(self.network.interface(params).targets.embedding[...])

    def _noised(
        self,
        key: PRNGKeyArray,
        y: Float[Array, "batch length width"],
        sigma: Float[Array, "#batch #length"],
    ) -> Float[Array, "batch length width"]:
        level = jnp.broadcast_to(sigma, y.shape[:2]).reshape(-1)
        return self.noise.corrupt(key, y.reshape(-1, y.shape[-1]), level).reshape(y.shape)

    def _mean(
        self, params: Params, logits: Float[Array, "*batch vocabulary"]
    ) -> Float[Array, "*batch width"]:
        mean: Array = jax.nn.softmax(logits) @ self._every_row(params)
        return mean

    def _every_row(self, params: Params) -> Float[Array, "vocabulary width"]:
        return self.targets(params).rows(jnp.arange(self.network.vocabulary))


@dataclasses.dataclass(frozen=True, eq=False)
class RecurrentTask(AutoregressiveTask):
    """The same by one network whose noisy slots look at those before them.

    Its network is `dbjax.families.recurrent_lm.RecurrentDenoiser`, its config a `SequenceConfig`.
    """

    def answer(
        self,
        params: Params,
        z: Float[Array, "batch length width"],
        sigma: Float[Array, "#batch 1"],
        tokens: Int[Array, "batch length"],
        key: PRNGKeyArray | None = None,
        remat: bool = False,
    ) -> tuple[Float[Array, "batch length vocabulary"], None]:
        """Logits of the slots; there is no clean stream, and nothing is drawn."""
        del key
        c = self.noise.precondition(sigma)
        hidden = self.network.apply(
            params, c.c_in[..., None] * z, c.c_noise[:, 0], tokens, remat=remat
        )
        return self.read(params, z, sigma, hidden), None


@dataclasses.dataclass(frozen=True, eq=False)
class NextTokenTask:
    """The twin: one block, trained by back-propagation through all layers, without noise.

    Its loss ignores the interval, and its z is not looked at.

    Attributes:
        network: logits of each token from those before it.
        noise: of no effect; the partition is one in its coordinate.
        partition: of one block.
        length: tokens of a text in training.
    """

    network: Any
    noise: LogNormalNoise
    partition: Partition
    length: int

    def init(self, key: PRNGKeyArray, block: int) -> Params:
        params: Params = self.network.init(key, self.partition.layers[block])
        return params

    def loss(
        self,
        params: Params,
        batch: Batch,
        interval: Float[Array, " 2"],
        key: PRNGKeyArray,
        *,
        remat: bool = False,
    ) -> tuple[Float[Array, ""], Metrics]:
        """Cross entropy of the next token."""
        del interval
        logits = self.network.apply(params, batch["tokens"], key=key, remat=remat)
        loss = jnp.mean(_entropy(logits, batch["tokens"]))
        return loss, {"loss": loss, "cross_entropy": loss}

    def entropy(
        self,
        params: Params,
        tokens: Int[Array, "batch length"],
        u: Float[Array, " batch"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch length"]:
        """Nats of each token; there is no noise."""
        del u, key
        return _entropy(self.network.apply(params, tokens), tokens)

    def prior(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "batch length 1"]:
        return jnp.zeros((num_samples, self.length, 1))

    def denoise(
        self,
        params: Params,
        z: Float[Array, "batch length 1"],
        level: Float[Array, " batch"],
        condition: Int[Array, "batch length"] | None = None,
        *,
        guidance: float = 1.0,
    ) -> Estimate:
        """The logits of each token, given those before it; z comes back as it is."""
        assert condition is not None
        return Estimate(z, self.network.apply(params, condition))

    def decode(self, z: Float[Array, "*batch 1"]) -> Float[Array, "*batch 1"]:
        return z


@runtime_checkable
class LanguageTask(Protocol):
    """A task that tells how likely each token of a text is, given those before it."""

    def init(self, key: PRNGKeyArray, block: int) -> Params: ...

    def entropy(self, params: Params, tokens: Array, u: Array, key: PRNGKeyArray) -> Array:
        """Nats of each token at u."""


def _entropy(logits: Array, tokens: Array) -> Float[Array, "batch length"]:
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens)


def _unit(rows: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
