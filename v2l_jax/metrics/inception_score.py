"""Inception Score: high where each image is clearly of one class and the images are of many classes
(Salimans et al. 2016, section 4).
"""

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp

from v2l_jax.errors import DataError
from v2l_jax.metrics.results import Result, Scalar, mean


def inception_score(
    logits: Float[np.ndarray, "images classes"], splits: int = 10, **measured_on: Scalar
) -> Result:
    """exp of the mean KL(p(class | image) ‖ p(class)), averaged over splits of the images.

    Args:
      logits: of InceptionV3's 1,008 classes without bias (`towers.inception`), images in random
        order.
      splits: consecutive parts of (almost) equal size, ten as published, each with a p(class) of
        its own.
      **measured_on: see `Result`.

    Returns:
      Metric "inception_score": the mean of the splits' scores (1 to the number of classes) with its
      Student t interval. The count is that of the images; the field "splits_sd" holds the splits'
      standard deviation, which the literature quotes.

    Raises:
      DataError: fewer images than splits.
    """
    if len(logits) < splits:
        raise DataError(
            f"an Inception Score in {splits} splits needs at least {splits} images, got "
            f"{len(logits)}"
        )
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    scores = []
    for part in np.array_split(log_p, splits):
        marginal = logsumexp(part, axis=0) - np.log(len(part))
        scores.append(np.exp(np.mean(np.sum(np.exp(part) * (part - marginal), axis=1))))
    result = mean("inception_score", scores)
    return Result(
        result.metric,
        result.value,
        len(logits),
        result.ci95,
        {**measured_on, "splits_sd": float(np.std(scores))},
    )
