"""How layers and noise are shared out among blocks.

A partition is a split of u in [0, 1] (see `dbjax.noise`), block 0 noisiest. Everything here runs on
the host in float64: boundaries, training intervals and sampling grids are constants of a run.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int

from dbjax.errors import SettingError, require
from dbjax.noise import GaussianNoise, NoiseProcess

STRATEGIES = ("equiprobable", "uniform")
GRIDS = ("even", "left", "karras")
CONTEXTS = ("own", "first", "noisier", "cleaner")

# Two float64 roads to one boundary differ by rounding only; any real distance in u is far larger.
_SAME_U = 1e-9
# What float32 can still draw from, next to u = 1.
_SMALLEST_SHARE = 1e-6


@dataclasses.dataclass(frozen=True)
class PartitionConfig:
    """The `partition` section of a config.

    Attributes:
        num_blocks: B; 1 is ordinary end-to-end training.
        strategy: `equiprobable` gives every block the same training mass; `uniform` the same
            width in the noise's natural coordinate (ln sigma; time).
        layers: layers of each block, noisiest first, such as (3, 6, 3); None shares them evenly.
        overlap: gamma; a block trains on its range widened on both sides by gamma times its width
            in the natural coordinate (paper, appendix C). Sampling never uses it.
        edges: the B + 1 boundaries in u, from 0 (noisiest) to 1, in place of what `strategy` says.
        context: whose layers a block runs over clean context before its own, without training them:
            `own`, nobody's; `first`, the noisiest block's; `noisier`, those of all blocks before
            it, noisiest first; `cleaner`, those of all blocks after it, cleanest first, so that the
            noisiest reads the context through the whole network. For autoregressive families.
    """

    num_blocks: int = 3
    strategy: str = "equiprobable"
    layers: tuple[int, ...] | None = None
    overlap: float = 0.05
    edges: tuple[float, ...] | None = None
    context: str = "own"

    def __post_init__(self) -> None:
        require(self.num_blocks >= 1, "partition.num_blocks", self.num_blocks, "1 or more")
        require(
            self.strategy in STRATEGIES, "partition.strategy", self.strategy, _one_of(STRATEGIES)
        )
        require(self.overlap >= 0, "partition.overlap", self.overlap, "0 or more")
        require(self.context in CONTEXTS, "partition.context", self.context, _one_of(CONTEXTS))
        if self.edges is not None:
            shares = np.diff(self.edges)
            fits = len(shares) == self.num_blocks and (self.edges[0], self.edges[-1]) == (0, 1)
            require(
                fits and bool(min(shares) >= _SMALLEST_SHARE),
                "partition.edges",
                self.edges,
                f"{self.num_blocks + 1} rising numbers from 0 to 1 (partition.num_blocks + 1)",
            )


@dataclasses.dataclass(frozen=True)
class Partition:
    """B blocks, noisiest first.

    Attributes:
        edges: B + 1 boundaries in u, from 0 to 1; block b owns [edges[b], edges[b + 1]].
        intervals: for each block the (lower, upper) u it trains on, overlap included.
        layers: for each block the indices of its layers in the whole network.
        context: for each block the indices of the layers that it borrows from others, in the order
            in which it runs them before its own.
    """

    edges: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    layers: tuple[tuple[int, ...], ...]
    context: tuple[tuple[int, ...], ...] = ()

    @property
    def num_blocks(self) -> int:
        return len(self.layers)

    @property
    def num_layers(self) -> int:
        """Of the whole network."""
        return sum(map(len, self.layers))

    @property
    def borrows(self) -> bool:
        """Whether any block reads layers of others."""
        return any(self.context)

    def borrowed(
        self,
    ) -> tuple[Int[np.ndarray, "blocks capacity"], Float[np.ndarray, "blocks capacity"]]:
        """The layers that each block borrows, and 1 for each of them.

        Blocks keep room for as many as any of them borrows, so that they have one shape; what is
        left over is layer 0, and 0.
        """
        capacity = max(map(len, self.context))
        index = np.zeros((self.num_blocks, capacity), np.int32)
        use = np.zeros((self.num_blocks, capacity), np.float32)
        for block, layers in enumerate(self.context):
            index[block, : len(layers)] = layers
            use[block, : len(layers)] = 1
        return index, use

    def block_of(self, u: float) -> int:
        """The one road from a noise level to its block. A boundary belongs to the cleaner side."""
        inner = np.asarray(self.edges[1:-1])
        return int(np.searchsorted(inner, u + _SAME_U, side="right"))


def make_partition(config: PartitionConfig, noise: NoiseProcess, num_layers: int) -> Partition:
    """Shares `num_layers` layers and the noise range among `config.num_blocks` blocks.

    Raises:
        SettingError: if layers or noise cannot be shared out as asked.
    """
    counts = _layer_counts(config, num_layers)
    ends = list(itertools.accumulate(counts, initial=0))
    b = config.num_blocks
    edges = np.linspace(0.0, 1.0, b + 1) if config.edges is None else np.asarray(config.edges)
    if config.strategy == "uniform" and config.edges is None:
        natural = np.linspace(noise.natural(0.0), noise.natural(1.0), b + 1)
        edges[1:-1] = noise.u_of_natural(natural[1:-1])
        share = float(np.min(np.diff(edges)))
        require(
            share >= _SMALLEST_SHARE,
            "partition.strategy",
            config.strategy,
            f"'equiprobable' for this noise and {b} blocks (a block would train on the share "
            f"{share:.0e} of the noise levels; at least {_SMALLEST_SHARE:.0e} is needed)",
        )
    layers = tuple(tuple(range(lo, hi)) for lo, hi in itertools.pairwise(ends))
    return Partition(
        edges=tuple(float(e) for e in edges),
        intervals=tuple(
            _widen(noise, float(lo), float(hi), config.overlap)
            for lo, hi in itertools.pairwise(edges)
        ),
        layers=layers,
        context=tuple(
            tuple(layer for a in _lenders(config.context, block, b) for layer in layers[a])
            for block in range(b)
        ),
    )


@dataclasses.dataclass(frozen=True)
class Grid:
    """The noise levels a sampler visits, noisiest first; one network call (or two) at each.

    Attributes:
        levels: T levels, the first at u = 0.
        blocks: the block that is asked at each of them.
    """

    levels: tuple[float, ...]
    blocks: tuple[int, ...]


def sampling_grid(
    partition: Partition, noise: NoiseProcess, num_steps: int, kind: str = "even"
) -> Grid:
    """T = `num_steps` levels over the whole range, each with its block.

    Args:
        partition: who owns which noise.
        noise: maps u to levels.
        num_steps: T; at T = 1 the only level is pure noise.
        kind: `even` steps in u, both ends included (DiffusionBlocks, appendix H), so that blocks
            work equally often; `left`, u = 0, 1/T, ..., (T-1)/T, the noisy end of each step
            (NoProp, where T blocks take one step each); `karras`, even in sigma^(1/7), both ends
            included (Karras et al. 2022, equation 5).

    Raises:
        SettingError: for no steps, an unknown grid, or `karras` without sigma.
    """
    require(num_steps >= 1, "sampling.num_steps", num_steps, "1 or more")
    require(kind in GRIDS, "sampling.grid", kind, _one_of(GRIDS))
    share = np.arange(num_steps) / max(num_steps - (kind != "left"), 1)
    if kind != "karras":
        levels = np.asarray(noise.level(share))
        us = share
    else:
        if not isinstance(noise, GaussianNoise):
            raise SettingError(
                f"sampling.grid is 'karras', which needs noise with a sigma; "
                f"allowed with {type(noise).__name__}: 'even' or 'left'"
            )
        rho = 7.0
        first, last = noise.sigma_max ** (1 / rho), noise.sigma_min ** (1 / rho)
        levels = (first + share * (last - first)) ** rho
        us = np.asarray(noise.u_of(levels))
    return _with_blocks(partition, levels, us)


def grid_at(partition: Partition, noise: NoiseProcess, levels: Sequence[float]) -> Grid:
    """The grid of these levels.

    Raises:
        SettingError: if they do not fall from pure noise, or go beyond the range.
    """
    start, end = float(noise.level(0.0)), float(noise.level(1.0))
    falling = bool(np.all(np.diff(levels) < 0))
    require(
        falling and bool(np.isclose(levels[0], start)) and levels[-1] >= end * (1 - _SAME_U),
        "sampling.levels",
        levels,
        f"falling numbers, the first {start:g} and the last {end:g} or more",
    )
    return _with_blocks(partition, levels, np.asarray(noise.u_of(np.asarray(levels))))


def _with_blocks(
    partition: Partition, levels: Iterable[float], us: Float[np.ndarray, " steps"]
) -> Grid:
    return Grid(
        levels=tuple(float(level) for level in levels),
        blocks=tuple(partition.block_of(float(u)) for u in us),
    )


def parse_blocks(text: str, num_blocks: int, name: str, *words: str) -> tuple[int, ...]:
    """Block numbers as people write them: "0,2".

    Args:
        text: numbers between commas.
        num_blocks: B.
        name: of the setting, for the refusal.
        words: what the setting may be besides, for the refusal.

    Raises:
        SettingError: if it is not a list of different blocks.
    """
    numbers = [part.strip() for part in text.split(",")]
    good = all(number.isdecimal() and int(number) < num_blocks for number in numbers)
    require(
        good and len(set(map(int, numbers))) == len(numbers),
        name,
        text,
        " or ".join([*map(repr, words), f"different numbers from 0 to {num_blocks - 1}, as '0,1'"]),
    )
    return tuple(sorted(map(int, numbers)))


def _lenders(context: str, block: int, num_blocks: int) -> Sequence[int]:
    """The blocks whose layers `block` runs before its own, in this order."""
    return {
        "own": (),
        "first": (0,) if block else (),
        "noisier": range(block),
        "cleaner": range(num_blocks - 1, block, -1),
    }[context]


def _layer_counts(config: PartitionConfig, num_layers: int) -> Sequence[int]:
    b = config.num_blocks
    require(
        b <= num_layers,
        "partition.num_blocks",
        b,
        f"at most the number of layers, {num_layers}",
    )
    if config.layers is None:
        divisors = [d for d in range(1, num_layers + 1) if num_layers % d == 0]
        require(
            num_layers % b == 0,
            "partition.num_blocks",
            b,
            f"a divisor of the {num_layers} layers ({', '.join(map(str, divisors))}), "
            "or any number together with partition.layers",
        )
        return [num_layers // b] * b
    require(
        len(config.layers) == b and sum(config.layers) == num_layers and min(config.layers) >= 1,
        "partition.layers",
        config.layers,
        f"{b} positive numbers (partition.num_blocks) that add up to {num_layers} layers",
    )
    return config.layers


def _widen(noise: NoiseProcess, lo: float, hi: float, gamma: float) -> tuple[float, float]:
    """[lo, hi] in u, widened by gamma times its width in the natural coordinate, cut to [0, 1]."""
    if gamma == 0:
        return lo, hi
    noisy, clean = float(noise.natural(lo)), float(noise.natural(hi))
    extra = gamma * (noisy - clean)
    return (
        0.0 if lo == 0 else float(noise.u_of_natural(noisy + extra)),
        1.0 if hi == 1 else float(noise.u_of_natural(clean - extra)),
    )


def _one_of(names: Sequence[str]) -> str:
    return "one of " + ", ".join(repr(name) for name in names)
