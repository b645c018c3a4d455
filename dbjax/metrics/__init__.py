"""Measures of samples against data."""

from dbjax.metrics.comparable import require_comparable
from dbjax.metrics.frechet import GaussianStatistics, frechet_distance, pixel_features
from dbjax.metrics.labels import LabelClassifier
from dbjax.metrics.mauve import MauveScore, mauve_score
from dbjax.metrics.ngram import NgramScorer
from dbjax.metrics.perplexity import GenerativePerplexity, Scorer, generative_perplexity
from dbjax.metrics.pretrained import LastTokenFeatures, PretrainedScorer
from dbjax.metrics.samples import quantise
from dbjax.metrics.text_features import TextFeatures, TfidfFeatures

__all__ = [
    "GaussianStatistics",
    "GenerativePerplexity",
    "LabelClassifier",
    "LastTokenFeatures",
    "MauveScore",
    "NgramScorer",
    "PretrainedScorer",
    "Scorer",
    "TextFeatures",
    "TfidfFeatures",
    "frechet_distance",
    "generative_perplexity",
    "mauve_score",
    "pixel_features",
    "quantise",
    "require_comparable",
]
