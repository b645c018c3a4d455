"""Measures of samples against data."""

from dbjax.metrics.frechet import GaussianStatistics, frechet_distance, pixel_features
from dbjax.metrics.labels import LabelClassifier
from dbjax.metrics.samples import quantise

__all__ = [
    "GaussianStatistics",
    "LabelClassifier",
    "frechet_distance",
    "pixel_features",
    "quantise",
]
