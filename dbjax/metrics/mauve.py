"""MAUVE: how well generated texts cover real ones, and the other way round.

Pillutla et al. 2021 (arXiv 2102.01454), by their package `mauve-text`: features of both sets are
scaled to length 1, reduced to 90 % of their variance by PCA and sorted into clusters by k-means.
The histograms P and Q are compared by the curve `(exp(-c KL(Q|R)), exp(-c KL(P|R)))` over mixtures
`R = w P + (1 - w) Q`, and the area under it is the score. 1 is a perfect match.

What the score of different sets is depends on c, the scaling factor: sets that share no cluster
score .167 with c = 2 and .004 with c = 5 (the package's default).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from sklearn.preprocessing import normalize

from dbjax.errors import SettingError, require
from dbjax.metrics.text_features import TextFeatures
from dbjax.metrics.text_requirements import require_texts
from dbjax.packages import optional_package

# With fewer the package's tenth as many clusters would be fewer than the two it takes at least.
MIN_TEXTS = 20


@dataclasses.dataclass(frozen=True)
class MauveScore:
    """A MAUVE score and what it depends on.

    Attributes:
        score: from 0 to 1, higher is better.
        num_reference: number of real texts.
        num_generated: number of generated texts.
        features: name of the features.
        scaling_factor: c.
        num_clusters: size of the histograms.
        seed: of PCA and k-means.
    """

    score: float
    num_reference: int
    num_generated: int
    features: str
    scaling_factor: float
    num_clusters: int
    seed: int

    @property
    def settings(self) -> Mapping[str, object]:
        """All but the score: two scores compare only where these are equal."""
        return {name: x for name, x in dataclasses.asdict(self).items() if name != "score"}


def mauve_score(
    reference: Sequence[str],
    generated: Sequence[str],
    features: TextFeatures,
    *,
    scaling_factor: float = 2.0,
    num_clusters: int | None = None,
    seed: int = 25,
    unequal: bool = False,
) -> MauveScore:
    """MAUVE of generated texts against real ones. Needs the extra `text`.

    The score is noisy, and biased upwards for few texts: several thousand on each side are advised,
    and only scores with equal settings compare (`require_comparable`).

    Args:
        reference: real texts, of the length of the generated ones.
        generated: generated texts.
        features: how texts become vectors.
        scaling_factor: c; 2 as in DiffusionBlocks (arXiv 2506.14202), where the package has 5.
        num_clusters: size of the histograms; None for the package's rule, a tenth of the smaller
            number of texts.
        seed: of PCA and k-means; the default is the package's.
        unequal: allows different numbers of texts, for protocols with several continuations of one
            prompt.

    Raises:
        SettingError: a text is empty, there are too few, or not equally many on both sides (unless
            `unequal`); or as `mauve_from_features`.
    """
    require_texts(reference, "reference texts", at_least=MIN_TEXTS)
    require_texts(generated, "generated texts", at_least=MIN_TEXTS)
    return mauve_from_features(
        features(reference),
        features(generated),
        features=features.name,
        scaling_factor=scaling_factor,
        num_clusters=num_clusters,
        seed=seed,
        unequal=unequal,
    )


def mauve_from_features(
    reference: Float[np.ndarray, "num_reference dim"],
    generated: Float[np.ndarray, "num_generated dim"],
    *,
    features: str,
    scaling_factor: float = 2.0,
    num_clusters: int | None = None,
    seed: int = 25,
    unequal: bool = False,
) -> MauveScore:
    """MAUVE of texts whose features are there already; `features` is their name.

    The other arguments are those of `mauve_score`.

    Raises:
        SettingError: rows are too few, or not equally many on both sides (unless `unequal`);
            features are not finite, or all alike; a setting is out of range; or `mauve-text` is
            missing.
    """
    p, q = len(reference), len(generated)
    for name, count in (("reference", p), ("generated", q)):
        require(count >= MIN_TEXTS, f"the number of {name} texts", count, f"{MIN_TEXTS} or more")
    if p != q and not unequal:
        raise SettingError(
            f"there are {p} reference and {q} generated texts; the score depends on both numbers, "
            "so take equally many, or say unequal=True"
        )
    clusters = max(2, round(min(p, q) / 10)) if num_clusters is None else num_clusters
    allowed = f"2 to {min(p, q)}, the smaller number of texts"
    require(2 <= clusters <= min(p, q), "num_clusters", clusters, allowed)
    require(scaling_factor > 0, "scaling_factor", scaling_factor, "above 0")
    both = np.concatenate([reference, generated])
    if not np.isfinite(both).all():
        raise SettingError(f"features {features!r} are not finite for some of the texts")
    directions = normalize(both)
    if np.allclose(directions, directions[0]):
        raise SettingError(f"features {features!r} are the same for all texts: nothing to cluster")
    package = optional_package("mauve", "MAUVE", "'dbjax[text]'")
    found = package.compute_mauve(
        p_features=reference,
        q_features=generated,
        num_buckets=clusters,
        mauve_scaling_factor=scaling_factor,
        seed=seed,
    )
    return MauveScore(float(found.mauve), p, q, features, scaling_factor, clusters, seed)
