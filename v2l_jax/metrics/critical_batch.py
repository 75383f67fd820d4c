"""How training time falls with the batch size, and where it stops falling (McCandlish et al. 2018,
arXiv 1812.06162).
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Real

from v2l_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class BatchScaling:
    """The fit of steps(B) = least_steps · (1 + critical_batch / B), the paper's equation 2.11.

    Attributes:
      least_steps: steps that a batch of unlimited size would need.
      critical_batch: images a step at which twice `least_steps` are needed, and twice the fewest
        images; below it a larger batch saves nearly as many steps as it costs images, above it
        hardly any.
      interval: of critical_batch, 95 %, from the curvature of the fit (Student's t).
      relative_error: root mean square of the fit's error in log steps; 0.1 is about 10 %.
    """

    least_steps: float
    critical_batch: float
    interval: tuple[float, float]
    relative_error: float

    def steps(self, batch_size: Float[np.ndarray, " sizes"]) -> Float[np.ndarray, " sizes"]:
        """Steps to the target at these batch sizes."""
        return self.least_steps * (1.0 + self.critical_batch / batch_size)


def fit_batch_scaling(
    batch_sizes: Real[np.ndarray, " runs"], steps: Real[np.ndarray, " runs"]
) -> BatchScaling:
    """Least squares on the logarithm of the steps.

    Args:
      batch_sizes: images a step of each run, at least three different ones.
      steps: steps of each run to one and the same target.

    Raises:
      DataError: fewer than three batch sizes reached the target.
    """
    from scipy import stats
    from scipy.optimize import least_squares

    sizes, measured = np.asarray(batch_sizes, np.float64), np.asarray(steps, np.float64)
    if len(np.unique(sizes)) < 3:
        raise DataError(
            f"{len(np.unique(sizes))} batch sizes reached the target; a fit needs three"
        )

    def model(logs: np.ndarray) -> np.ndarray:
        return logs[0] + np.log1p(np.exp(logs[1]) / sizes)

    start = np.log([measured.min(), np.median(sizes)])
    found = least_squares(lambda logs: model(logs) - np.log(measured), start)
    least, critical = np.exp(found.x)
    spare = len(sizes) - len(found.x)
    variance = np.linalg.inv(found.jac.T @ found.jac)[1, 1] * np.sum(found.fun**2) / spare
    factor = np.exp(stats.t.ppf(0.975, spare) * np.sqrt(variance))
    interval = float(critical / factor), float(critical * factor)
    return BatchScaling(
        float(least), float(critical), interval, float(np.sqrt(np.mean(found.fun**2)))
    )
