"""The `optimizer` section of a config, and the optax transformation it stands for."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import optax

from dbjax.errors import require

SCHEDULES = ("constant", "cosine", "linear")
MOMENT_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The `optimizer` section of a config. Every count is in the block's own steps.

    State beside the parameters, in copies of them: adamw 2 (1.5 with bfloat16 moments), lion 1
    (0.5), adafactor next to none, since it keeps a row and a column for each matrix.

    Attributes:
        name: `adamw` (Loshchilov & Hutter 2019), `lion` (Chen et al. 2023; wants a learning rate
            some 3 to 10 times smaller) or `adafactor` (Shazeer & Stern 2018, without momentum;
            its step is relative to the size of each parameter array).
        learning_rate: its peak.
        b1, b2: decay of the moments of adamw and lion.
        eps: adamw's.
        moment_dtype: type of the first moment of adamw and lion, float32 or bfloat16.
        weight_decay: decoupled from the gradient, times the learning rate.
        warmup_steps: linear warm-up from 0.
        schedule: after the warm-up `constant`, or `cosine`/`linear` down to `final_scale` times
            the peak at the last step.
        final_scale: see `schedule`.
        clip_norm: largest global norm of a block's gradient; None does not clip.
        ema_decay: decay of the averaged weights that evaluation and sampling use, warmed up as
            min(ema_decay, (1 + n) / (10 + n)) at step n; 0 keeps no average.
    """

    name: str = "adamw"
    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    moment_dtype: str = "float32"
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: str = "constant"
    final_scale: float = 0.0
    clip_norm: float | None = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        name = "optimizer.{}".format
        choices = {"name": tuple(OPTIMIZERS), "schedule": SCHEDULES, "moment_dtype": MOMENT_DTYPES}
        for field, allowed in choices.items():
            value = getattr(self, field)
            one_of = f"one of {', '.join(map(repr, allowed))}"
            require(value in allowed, name(field), value, one_of)
        require(self.learning_rate > 0, name("learning_rate"), self.learning_rate, "above 0")
        require(self.eps > 0, name("eps"), self.eps, "above 0")
        for field in ("b1", "b2", "ema_decay"):
            value = getattr(self, field)
            require(0 <= value < 1, name(field), value, "a number in [0, 1)")
        for field in ("weight_decay", "warmup_steps", "final_scale"):
            value = getattr(self, field)
            require(value >= 0, name(field), value, "0 or more")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            name("clip_norm"),
            self.clip_norm,
            "a number above 0, or None",
        )


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The optimizer with clipping, warm-up and decay over `num_steps` of the block's own steps."""
    peak = config.learning_rate
    decay_steps = max(num_steps - config.warmup_steps, 1)
    after: optax.Schedule
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, decay_steps, alpha=config.final_scale)
    elif config.schedule == "linear":
        after = optax.linear_schedule(peak, peak * config.final_scale, decay_steps)
    else:
        after = optax.constant_schedule(peak)
    warmup = optax.linear_schedule(0.0, peak, max(config.warmup_steps, 1))
    schedule = optax.join_schedules([warmup, after], [config.warmup_steps])
    optimizer = OPTIMIZERS[config.name](config, schedule)
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


Maker = Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]


def _adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        schedule,
        config.b1,
        config.b2,
        config.eps,
        mu_dtype=jnp.dtype(config.moment_dtype),
        weight_decay=config.weight_decay,
    )


def _lion(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    dtype = jnp.dtype(config.moment_dtype)
    return optax.lion(
        schedule, config.b1, config.b2, mu_dtype=dtype, weight_decay=config.weight_decay
    )


def _adafactor(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.chain(
        optax.adafactor(learning_rate=None, multiply_by_parameter_scale=True),
        optax.add_decayed_weights(-config.weight_decay),
        optax.scale_by_schedule(schedule),
    )


OPTIMIZERS: dict[str, Maker] = {"adamw": _adamw, "lion": _lion, "adafactor": _adafactor}
