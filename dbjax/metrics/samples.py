"""Brings samples to the form in which data are stored, before anything is measured on them."""

import numpy as np
from jaxtyping import Float, Shaped


def quantise(
    images: Float[np.ndarray, "count *shape"], max_value: float | None
) -> Shaped[np.ndarray, "count *shape"]:
    """Clips and rounds samples to the levels of the data, as saving them to a file would.

    A metric between rounded data and unrounded samples also measures the rounding.

    Args:
      images: samples in raw units.
      max_value: `DatasetInfo.max_value`.

    Returns:
      Whole numbers from 0 to `max_value` in the smallest unsigned type that holds them; `images`
      unchanged where `max_value` is None.

    Raises:
      ValueError: a sample is not finite.
    """
    images = np.asarray(images)
    if not np.isfinite(images).all():
        raise ValueError("samples are not finite: the model or the sampler has diverged")
    if max_value is None:
        return images
    levels = np.rint(images.clip(0, max_value))
    return levels.astype(np.min_scalar_type(int(max_value)))
