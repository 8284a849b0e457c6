"""Where a function is large, and how wide it is, as weighted points tell: what an affine flow begins with."""

import numpy as np

from varflow.data.arrays import weighted_quantiles
from varflow.data.dataset import Dataset

__all__ = ["location_and_scale"]

BAND = 0.158655, 0.841345  # quantiles of a normal distribution at one deviation from its mean, either way


def location_and_scale(data: Dataset) -> dict[str, np.ndarray]:
    """Estimate the median, and half the width of the central 68 %, of each coordinate under f.

    Quantiles, since moments are infinite where tails are heavy, and hang on single points elsewhere.

    Parameters
    ----------
    data : Dataset
        The points, of weights f/p.

    Returns
    -------
    dict
        Arguments location and scale of `varflow.Flow`, (d,) each.
    """
    with np.errstate(under="ignore"):
        log_weights = data.log_weight(1)
        weights = np.exp(log_weights - log_weights.max())
    found = np.array([weighted_quantiles(x, weights, (BAND[0], 0.5, BAND[1])) for x in data.x.T])
    low, location, high = found.T
    return {"location": location, "scale": _positive((high - low) / 2, data.x)}


def _positive(scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Take the scatter of all points where nearly all weight is in one of them, and 1 where they agree."""
    scale = np.where(scale > 0, scale, np.ptp(x, axis=0) / 2)
    return np.where(scale > 0, scale, 1.0)
