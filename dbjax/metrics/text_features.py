"""Texts as vectors, for measures of how alike two sets of texts are."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from dbjax.errors import require
from dbjax.metrics.text_requirements import require_texts, texts_name


@runtime_checkable
class TextFeatures(Protocol):
    """A map from texts to vectors.

    Attributes:
        name: all that the vectors depend on; figures of features with different names do not
            compare.
    """

    name: str

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """Returns one vector for each text, all finite."""


class TfidfFeatures:
    """Which runs of 1 to 3 characters a text has: a proxy that needs no network and no download.

    Frequencies of character n-grams, damped as 1 + ln(count) and weighted by rarity (TF-IDF), in
    the directions in which the fitted texts vary most (truncated SVD: latent semantic analysis,
    Deerwester et al. 1990), scaled to length 1. They see spelling, words and topic, and hardly the
    order of words: a text of shuffled words looks real. No figure made with them compares with a
    published one.

    Attributes:
        name: "tfidf-svd-<dim> (proxy, <fitted texts>)".
    """

    def __init__(self, texts: Sequence[str], *, dim: int = 64) -> None:
        """Fits the features.

        Args:
            texts: real texts. Best others than those measured, which would fit a little better than
                equally good new ones.
            dim: size of a vector.

        Raises:
            SettingError: a text is empty, or the texts do not vary in `dim` directions.
        """
        require_texts(texts, "texts to fit features to")
        self._ngrams = TfidfVectorizer(
            analyzer="char", ngram_range=(1, 3), lowercase=False, sublinear_tf=True
        )
        counts = self._ngrams.fit_transform(texts)
        most = min(counts.shape)
        allowed = f"1 to {most}, what {len(texts)} texts with {counts.shape[1]} n-grams can fill"
        require(1 <= dim <= most, "dim", dim, allowed)
        self._directions = TruncatedSVD(dim, random_state=0).fit(counts)
        self.name = f"tfidf-svd-{dim} (proxy, {texts_name(texts)})"

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """Returns rows of length 1, or of zeros where a text shares no n-gram with the fitted.

        Raises:
            SettingError: a text is empty.
        """
        require_texts(texts, "texts")
        return normalize(self._directions.transform(self._ngrams.transform(texts)))
