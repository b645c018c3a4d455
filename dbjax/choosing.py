"""How many blocks, and of how many layers: judged from the held-out losses of short trainings.

All is arithmetic on `DenoisingLoss.nats`. A cut costs the excess of its loss over that of the uncut
network, which is a sum over noise levels; models are compared on the same examples under the same
noise, so that the error of an excess is far below that of either loss.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from dbjax.metrics.denoising import standard_error

CERTAIN = 2.0
"""Standard errors by which an excess must be on one side of the tolerance."""
WITHIN, BEYOND, UNDECIDED = "within", "beyond", "undecided"

Losses = Mapping[int, Float[np.ndarray, "seeds groups levels"]]
"""Nats per value that each level adds, by number of blocks; 1 is the uncut network."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What a number of blocks costs.

    Attributes:
        num_blocks: B.
        excess: of its held-out loss over the uncut network's, nats per value.
        error: standard error of it, over groups of examples and, of several, over seeds.
        verdict: `within` or `beyond` the tolerance, or `undecided`.
    """

    num_blocks: int
    excess: float
    error: float
    verdict: str


@dataclasses.dataclass(frozen=True)
class Split:
    """Layers of each block, as the probe would share them out.

    Attributes:
        layers: of each block, noisiest first.
        gain: of the held-out loss over even layers, as predicted, nats per value.
        error: standard error of it.
    """

    layers: tuple[int, ...]
    gain: float
    error: float

    @property
    def supported(self) -> bool:
        """Whether the probe can tell it from even layers."""
        return self.gain > CERTAIN * self.error


def judge(losses: Losses, tolerance: float) -> list[Candidate]:
    """Every cut against the tolerance, fewest blocks first.

    One seed tells nothing of what another training would have given: the error is then that of the
    examples alone. The spread over several is taken together for all cuts, since two or three seeds
    of one say little.

    Args:
        losses: with the uncut network among them.
        tolerance: nats per value.
    """
    excess = {b: losses[b].sum(axis=2) - losses[1].sum(axis=2) for b in sorted(losses) if b > 1}
    seeds = len(losses[1])
    spread = 0.0
    if seeds > 1 and excess:
        each = np.stack([values.mean(axis=1) for values in excess.values()])
        spread = float(np.mean(np.var(each, axis=1, ddof=1))) / seeds
    found = [Candidate(1, 0.0, 0.0, WITHIN)]
    for b, values in excess.items():
        mean = float(values.mean())
        error = float(np.hypot(standard_error(values.mean(axis=0)), np.sqrt(spread)))
        verdict = UNDECIDED
        if mean + CERTAIN * error <= tolerance:
            verdict = WITHIN
        elif mean - CERTAIN * error > tolerance:
            verdict = BEYOND
        found.append(Candidate(b, mean, error, verdict))
    return found


def largest(candidates: Sequence[Candidate]) -> int | None:
    """The largest number of blocks within the tolerance; None where that cannot be told.

    It cannot where none but the uncut network is within and some cut is undecided. Cuts are judged
    one by one: more blocks than one that is beyond may well be within.
    """
    best = max(one.num_blocks for one in candidates if one.verdict == WITHIN)
    undecided = any(one.verdict == UNDECIDED for one in candidates)
    return None if best == 1 and undecided else best


def suggest_split(
    losses: Losses, num_blocks: int, num_layers: int, owner: Int[np.ndarray, " levels"]
) -> Split | None:
    """Layers moved to the ranges of noise in which depth is worth most.

    Cuts into other numbers of blocks say what a range of noise loses with fewer layers and gains
    with more: L/B' layers for each B'. Between them loss is taken to be linear in the logarithm of
    the layers; beyond them nothing is supposed. Of all splits the one of least loss is found
    exactly, layer by layer. Its gain is measured on examples that it was not chosen on: each half
    judges the choice of the other.

    A block of fewer, deeper ones owned a wider range than it would here, and one of more a narrower
    range, so that gains of depth come out somewhat small, and so do losses.

    Args:
        losses: with more and with fewer blocks than `num_blocks` among them, all of equal depth.
        num_blocks: B.
        num_layers: L.
        owner: block of each level under B.

    Returns:
        None where the losses know no more than one depth on a side of L/B, so that no layer can be
        moved.
    """
    if num_blocks not in losses or not min(losses) < num_blocks < max(losses):
        return None
    depths = np.array(sorted(num_layers // b for b in losses))
    options = np.arange(depths[0], depths[-1] + 1)
    blocks = np.arange(num_blocks)[:, None] == owner
    known = np.stack([losses[num_layers // d].mean(axis=0) @ blocks.T for d in depths])
    at = np.interp(np.log(options), np.log(depths), np.arange(len(depths)))
    low = np.minimum(at.astype(int), len(depths) - 2)
    share = (at - low)[:, None, None]
    # [options, groups, blocks]
    loss = (1 - share) * known[low] + share * known[low + 1]
    even = num_layers // num_blocks - int(options[0])

    def best(of: Float[np.ndarray, "options groups blocks"]) -> tuple[int, ...]:
        return _least(of.mean(axis=1).T, options, num_layers)

    def gain(of: Float[np.ndarray, "options groups blocks"], layers: Sequence[int]) -> np.ndarray:
        chosen = np.stack([of[n - options[0], :, b] for b, n in enumerate(layers)])
        return of[even].sum(axis=1) - chosen.sum(axis=0)

    first, second = loss[:, ::2], loss[:, 1::2]
    gains = np.concatenate([gain(second, best(first)), gain(first, best(second))])
    return Split(best(loss), float(gains.mean()), standard_error(gains))


def _least(
    loss: Float[np.ndarray, "blocks options"], options: Int[np.ndarray, " options"], total: int
) -> tuple[int, ...]:
    """The option of each block that together make `total` at the least loss, found exactly."""
    # The least loss of the blocks so far, and their options, by how many layers they have taken.
    reached: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for row in loss:
        further: dict[int, tuple[float, tuple[int, ...]]] = {}
        for taken, (before, layers) in reached.items():
            for count, own in zip(options.tolist(), row.tolist(), strict=True):
                here = before + own
                now = taken + count
                if now <= total and (now not in further or here < further[now][0]):
                    further[now] = (here, (*layers, count))
        reached = further
    return reached[total][1]
