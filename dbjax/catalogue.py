"""The families a config can name: which sections they have, and how their tasks are made."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from dbjax import keys
from dbjax.autoregressive import (
    AutoregressiveConfig,
    AutoregressiveTask,
    FixedTable,
    NextTokenTask,
    RecurrentTask,
    SequenceConfig,
)
from dbjax.baselines.contrastive import ContrastiveForwardForwardTask, ContrastiveViT
from dbjax.baselines.forward_forward import (
    ForwardForwardConfig,
    ForwardForwardTask,
    ForwardForwardViT,
    label_codes,
)
from dbjax.baselines.noprop import (
    CosineNoise,
    FlowNoise,
    GeometricNoise,
    NoPropBackprop,
    NoPropCT,
    NoPropDT,
    NoPropFM,
    NoPropObjective,
    Schedule,
    Shares,
)
from dbjax.classification import (
    ClassificationConfig,
    ClassificationTask,
    LabelDenoisingTask,
    fixed_table,
)
from dbjax.data import DatasetInfo, TextConfig, TextInfo
from dbjax.errors import SettingError, require
from dbjax.families.ar_lm import ARConfig, ARDenoiser, PlainAR, PlainARConfig
from dbjax.families.dit import DiT, DiTConfig
from dbjax.families.huginn import Huginn, HuginnConfig
from dbjax.families.masked_lm import MaskedLM, MaskedLMConfig, MaskedTask
from dbjax.families.mlp import MLPConfig, make_mlp
from dbjax.families.noprop import NoPropConfig, NoPropNetwork, SingleNetworkConfig
from dbjax.families.recurrent_lm import DenoiserConfig, RecurrentDenoiser
from dbjax.families.vit import PlainViT, ViT, ViTConfig, interface_from_plain
from dbjax.generation import GenerationConfig
from dbjax.noise import MaskingNoise
from dbjax.partition import Partition, make_partition
from dbjax.settings import Settings
from dbjax.task import DenoisingTask, Network, Params
from dbjax.unmasking import UnmaskingConfig


@dataclasses.dataclass(frozen=True)
class Plain:
    """The family without noise whose layers blocks can begin with; they have more, by new names.

    Attributes:
        family: its name.
        may_differ: settings of the model that change no weight that both have.
        interface: makes the interface of a plain network, and a fresh one of ours, one whose
            parameters fit into ours where they have one name.
    """

    family: str
    may_differ: tuple[str, ...]
    interface: Callable[[Params, Params], Params] = lambda plain, fresh: plain


@dataclasses.dataclass(frozen=True)
class Family:
    """How to read the `model` section, and how to make the task.

    Attributes:
        config: the `model` section.
        task: makes the task of settings for data of which the facts are known, `DatasetInfo` or
            `TextInfo`, as `data` among its sections says.
        sections: further sections of the config that only this family has.
        views: of each image in a batch.
        lends: whether its blocks can read the context through layers of others.
        plain: the family whose networks its blocks can begin with; None for no other than its own.
    """

    config: type
    task: Callable[[Settings, Any], Any]
    sections: Mapping[str, type] = dataclasses.field(default_factory=dict)
    views: int = 1
    lends: bool = False
    plain: Plain | None = None


def _dit(settings: Settings, info: DatasetInfo) -> DenoisingTask:
    return _denoising(settings, info, DiT(settings.model, _image(settings, info), info.num_classes))


def _mlp(settings: Settings, info: DatasetInfo) -> DenoisingTask:
    network = make_mlp(settings.model, info.image_shape, info.num_classes, settings.seed)
    return _denoising(settings, info, network)


def _vit(settings: Settings, info: DatasetInfo) -> LabelDenoisingTask:
    network = ViT(settings.model, _image(settings, info), _classes(info))
    return _label_denoising(settings, info, network)


def _label_denoising(
    settings: Settings, info: DatasetInfo, network: ViT | NoPropNetwork
) -> LabelDenoisingTask:
    table = None
    if getattr(settings.model, "embedding", None) == "one_hot":
        table = jnp.eye(info.num_classes)
    elif settings.placement.interface != "shared":
        # Blocks that never meet must aim at the same embeddings.
        key = keys.derive(settings.seed, "labels")
        table = fixed_table(key, info.num_classes, network.width)
    return LabelDenoisingTask(
        network,
        settings.noise,
        make_partition(settings.partition, settings.noise, network.depth),
        settings.own["classification"],
        table=table,
        mean=info.mean,
        std=info.std,
    )


def _plain_vit(settings: Settings, info: DatasetInfo) -> ClassificationTask:
    network = PlainViT(settings.model, _image(settings, info), _classes(info))
    partition = _one_block(settings, network.depth)
    return ClassificationTask(network, settings.noise, partition, mean=info.mean, std=info.std)


def _forward_forward(settings: Settings, info: DatasetInfo) -> ForwardForwardTask:
    image_shape, num_classes = _image(settings, info), _classes(info)
    if info.max_value is None:
        raise SettingError(
            f"data.name is {info.name!r}, whose values have no largest one; "
            f"allowed with family {settings.family!r}: images of whole numbers"
        )
    codes = label_codes(
        keys.derive(settings.seed, "codes"),
        num_classes,
        settings.model.patch_size,
        image_shape[-1],
        (info.max_value - info.mean) / info.std,
    )
    network = ForwardForwardViT(settings.model, image_shape, codes, settings.own["forward_forward"])
    partition = _one_block(settings, network.depth)
    return ForwardForwardTask(network, settings.noise, partition, mean=info.mean, std=info.std)


def _contrastive(settings: Settings, info: DatasetInfo) -> ContrastiveForwardForwardTask:
    image_shape, num_classes = _image(settings, info), _classes(info)
    network = ContrastiveViT(
        settings.model, image_shape, num_classes, settings.own["forward_forward"]
    )
    partition = _one_block(settings, network.depth)
    return ContrastiveForwardForwardTask(
        network, settings.noise, partition, mean=info.mean, std=info.std
    )


def _one_block(settings: Settings, depth: int) -> Partition:
    """All layers in the only block there may be."""
    found = settings.partition.num_blocks
    allowed = f"1 with family {settings.family!r}"
    require(found == 1, "partition.num_blocks", found, allowed)
    return make_partition(settings.partition, settings.noise, depth)


def _noprop_blocks(settings: Settings, info: DatasetInfo) -> LabelDenoisingTask:
    network = _noprop_network(settings, info, timed=True)
    _check_one_network_each(settings)
    _check_embedding(settings)
    return _label_denoising(settings, info, network)


def _noprop_dt(settings: Settings, info: DatasetInfo) -> NoPropDT:
    network = _noprop_network(settings, info, head=True)
    _check_one_network_each(settings)
    overlap = settings.partition.overlap
    require(overlap == 0, "partition.overlap", overlap, "0 with family 'noprop_dt'")
    _check_embedding(settings)
    return NoPropDT(network, *_noprop_parts(settings, info))


def _noprop_ct(settings: Settings, info: DatasetInfo) -> NoPropCT:
    schedule = functools.partial(Schedule, settings.noise)
    network = _noprop_network(settings, info, timed=True, head=True, schedule=schedule)
    _check_single(settings)
    return NoPropCT(network, *_noprop_parts(settings, info))


def _noprop_fm(settings: Settings, info: DatasetInfo) -> NoPropFM:
    learned = settings.model.embedding != "one_hot"
    network = _noprop_network(settings, info, timed=True, head=learned)
    _check_single(settings)
    return NoPropFM(network, *_noprop_parts(settings, info))


def _noprop_backprop(settings: Settings, info: DatasetInfo) -> NoPropBackprop:
    shares = functools.partial(Shares, settings.model.depth)
    network = _noprop_network(settings, info, head=True, shares=shares)
    _one_block(settings, network.depth)
    return NoPropBackprop(network, *_noprop_parts(settings, info))


def _noprop_network(
    settings: Settings, info: DatasetInfo, *, timed: bool = False, head: bool = False, **extra: Any
) -> NoPropNetwork:
    """NoProp's CNN; with `head`, its interface reads classes off embeddings."""
    model, shape, num_classes = settings.model, _image(settings, info), _classes(info)
    if head:
        width = model.code_width(shape, num_classes)
        extra["head"] = functools.partial(nnx.Linear, width, num_classes)
    return NoPropNetwork(
        model, shape, num_classes, timed=timed, prototypes=settings.prototypes, extra=extra
    )


def _noprop_parts(settings: Settings, info: DatasetInfo) -> tuple[Any, ...]:
    """What NoProp's tasks want besides the network."""
    partition = make_partition(settings.partition, settings.noise, settings.model.depth)
    objective: NoPropObjective = settings.own.get("noprop", NoPropObjective())
    return settings.noise, partition, objective.eta, info.mean, info.std


def _check_one_network_each(settings: Settings) -> None:
    found, depth = settings.partition.num_blocks, settings.model.depth
    allowed = f"{depth} with family {settings.family!r}, one for each of model.depth networks"
    require(found == depth, "partition.num_blocks", found, allowed)


def _check_single(settings: Settings) -> None:
    depth = settings.model.depth
    require(depth == 1, "model.depth", depth, f"1 with family {settings.family!r}")
    _one_block(settings, depth)


def _check_embedding(settings: Settings) -> None:
    """Blocks that never meet cannot learn what they aim at together."""
    interface, embedding = settings.placement.interface, settings.model.embedding
    require(
        embedding == "one_hot" or interface == "shared",
        "placement.interface",
        interface,
        f"'shared' where model.embedding is {embedding!r}",
    )


def _masked_lm(settings: Settings, info: TextInfo) -> MaskedTask:
    network = MaskedLM(settings.model, info.vocabulary)
    partition = make_partition(settings.partition, settings.noise, network.depth)
    return MaskedTask(network, settings.noise, partition, info.length)


def _ar_lm(settings: Settings, info: TextInfo) -> AutoregressiveTask:
    shared = settings.placement.interface == "shared"
    network = ARDenoiser(settings.model, info.vocabulary, trained_targets=shared)
    partition = make_partition(settings.partition, settings.noise, network.depth)
    return AutoregressiveTask(
        network,
        settings.noise,
        partition,
        settings.own["autoregressive"],
        info.length,
        _token_table(settings, network.width),
    )


def _recurrent_lm(settings: Settings, info: TextInfo) -> RecurrentTask:
    shared = settings.placement.interface == "shared"
    network = RecurrentDenoiser(settings.model, info.vocabulary, trained_targets=shared)
    return RecurrentTask(
        network,
        settings.noise,
        _one_block(settings, network.depth),
        settings.own["autoregressive"],
        info.length,
        _token_table(settings, network.width),
    )


def _token_table(settings: Settings, width: int) -> FixedTable | None:
    """Targets of blocks that never meet: the same for all. Others learn theirs."""
    if settings.placement.interface == "shared":
        return None
    return FixedTable(keys.derive(settings.seed, "tokens"), width)


def _next_token(
    network: type[PlainAR] | type[Huginn], settings: Settings, info: TextInfo
) -> NextTokenTask:
    made = network(settings.model, info.vocabulary)
    partition = _one_block(settings, made.depth)
    return NextTokenTask(made, settings.noise, partition, info.length)


def _denoising(settings: Settings, info: DatasetInfo, network: Network) -> DenoisingTask:
    return DenoisingTask(
        network=network,
        noise=settings.noise,
        partition=make_partition(settings.partition, settings.noise, network.depth),
        image_shape=info.image_shape,
        num_classes=info.num_classes,
        label_dropout=settings.training.label_dropout,
        mean=info.mean,
        std=info.std,
    )


def _image(settings: Settings, info: DatasetInfo) -> tuple[int, int, int]:
    """Height, width and channels."""
    shape = info.image_shape
    if len(shape) != 3:
        raise SettingError(
            f"data.name is {info.name!r}, whose samples have shape {shape}; "
            f"allowed with family {settings.family!r}: images [height, width, channels]"
        )
    return (shape[0], shape[1], shape[2])


def _classes(info: DatasetInfo) -> int:
    require(info.num_classes >= 2, "data.name", info.name, "data with classes to tell apart")
    return info.num_classes


_WRITING: Mapping[str, type] = {"data": TextConfig, "sampling": GenerationConfig}
"""Sections of families that write text token by token."""

FAMILIES = {
    "dit": Family(DiTConfig, _dit),
    "mlp": Family(MLPConfig, _mlp),
    "vit": Family(
        ViTConfig,
        _vit,
        {"classification": ClassificationConfig},
        plain=Plain(
            "plain_vit", ("dropout", "layout", "label_scale", "gates"), interface_from_plain
        ),
    ),
    "plain_vit": Family(ViTConfig, _plain_vit),
    "noprop_blocks": Family(NoPropConfig, _noprop_blocks, {"classification": ClassificationConfig}),
    "noprop_dt": Family(
        NoPropConfig,
        _noprop_dt,
        {"noise": CosineNoise, "noprop": NoPropObjective},
    ),
    "noprop_ct": Family(
        SingleNetworkConfig,
        _noprop_ct,
        {"noise": GeometricNoise, "noprop": NoPropObjective},
    ),
    "noprop_fm": Family(SingleNetworkConfig, _noprop_fm, {"noise": FlowNoise}),
    "noprop_backprop": Family(NoPropConfig, _noprop_backprop),
    "forward_forward": Family(
        ViTConfig, _forward_forward, {"forward_forward": ForwardForwardConfig}
    ),
    "contrastive_forward_forward": Family(
        ViTConfig, _contrastive, {"forward_forward": ForwardForwardConfig}, views=2
    ),
    "masked_lm": Family(
        MaskedLMConfig,
        _masked_lm,
        {"data": TextConfig, "noise": MaskingNoise, "sampling": UnmaskingConfig},
    ),
    "ar_lm": Family(
        ARConfig,
        _ar_lm,
        {**_WRITING, "autoregressive": AutoregressiveConfig},
        lends=True,
        plain=Plain("plain_ar", ("dropout", "condition_width", "gates", "start", "passes")),
    ),
    "plain_ar": Family(PlainARConfig, functools.partial(_next_token, PlainAR), _WRITING),
    "recurrent_lm": Family(
        DenoiserConfig, _recurrent_lm, {**_WRITING, "autoregressive": SequenceConfig}
    ),
    "huginn": Family(HuginnConfig, functools.partial(_next_token, Huginn), _WRITING),
}

GENERATIVE = ("dit", "mlp")
"""Families whose models draw images or points."""
TEXT = ("masked_lm", "ar_lm", "plain_ar", "recurrent_lm", "huginn")
"""Families whose models write text; those in neither list classify images."""
