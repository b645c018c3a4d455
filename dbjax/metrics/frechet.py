"""Fréchet distance between two sets of features, each taken as a Gaussian.

Heusel et al. 2017 (arXiv 1706.08500), equation 6. With features of the Inception network this is
FID; any other features give a distance that must not be compared with published FIDs, and neither
may two values from different numbers of samples: the distance is biased upwards by about
(constant / count).
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Shaped


@dataclasses.dataclass(frozen=True)
class GaussianStatistics:
    """Mean and covariance of a set of features, in float64.

    Attributes:
      mean: `[dim]`.
      covariance: `[dim, dim]`, the unbiased estimate (divided by `count - 1`); zeros for a single
        sample.
      count: number of samples.
    """

    mean: Float[np.ndarray, " dim"]
    covariance: Float[np.ndarray, "dim dim"]
    count: int

    @classmethod
    def from_features(cls, features: Float[np.ndarray, "count dim"]) -> "GaussianStatistics":
        """Returns the statistics of one set of features.

        Raises:
          ValueError: `features` is not a matrix with at least one row.
        """
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or not len(features):
            raise ValueError(f"features have shape {features.shape}; needed: [count, dim]")
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(mean, centred.T @ centred / max(len(features) - 1, 1), len(features))

    def merge(self, other: "GaussianStatistics") -> "GaussianStatistics":
        """Returns the statistics of both sets together, so that a large one can come in batches.

        Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
        sample variances": exact, without the cancellation of accumulated squares.
        """
        count = self.count + other.count
        shift = other.mean - self.mean
        scatter = (
            self.covariance * (self.count - 1)
            + other.covariance * (other.count - 1)
            + np.outer(shift, shift) * (self.count * other.count / count)
        )
        return dataclasses.replace(
            self,
            mean=self.mean + shift * (other.count / count),
            covariance=scatter / (count - 1),
            count=count,
        )


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Returns the squared Fréchet (2-Wasserstein) distance between two Gaussians.

    In squared units of the features:
    `|m_a - m_b|^2 + Tr C_a + Tr C_b - 2 Tr (C_a C_b)^(1/2)`. The last trace is the sum of the
    square roots of the eigenvalues of `S C_b S`, `S = C_a^(1/2)`: a symmetric matrix, so unlike
    the square root of the product it stays real where a covariance is singular.

    Raises:
      ValueError: a side has fewer than two samples, or the features differ in size.
    """
    if min(a.count, b.count) < 2:
        raise ValueError(f"a covariance needs two samples; there are {a.count} and {b.count}")
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of sizes {a.mean.shape} and {b.mean.shape} do not compare")
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = root @ b.covariance @ root
    overlap = np.sqrt(np.linalg.eigvalsh((product + product.T) / 2).clip(min=0)).sum()
    shift = a.mean - b.mean
    distance = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap
    return max(float(distance), 0.0)


def pixel_features(images: Shaped[np.ndarray, "count *shape"]) -> Float[np.ndarray, "count dim"]:
    """Returns the images themselves as features, flattened, in float64.

    Args:
      images: pixels in [0, 1], so that distances on data sets of different ranges have one scale.
    """
    images = np.asarray(images, np.float64)
    return images.reshape(len(images), -1)
