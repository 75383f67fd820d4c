"""Linear probes: multinomial logistic regression on vectors of images, what a representation holds
of the classes without any language model.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

_FOLDS = 4
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Weights of the squared length that are tried, by cross-validation on the training images."""


def probe(
    x: Float[np.ndarray, "train dim"],
    y: Int[np.ndarray, " train"],
    new: Float[np.ndarray, "test dim"],
    seed: int,
    penalties: Sequence[float] = PENALTIES,
) -> Int[np.ndarray, " test"]:
    """The class of each new vector, by the penalty that is best in four folds of the others.

    Args:
      x: vectors to learn from; their spread is that of the root mean square of all numbers about
        their mean, which new vectors are divided by too.
      y: their classes.
      new: vectors to classify.
      seed: of the folds.
      penalties: to choose from; of equals the largest.
    """
    mean = x.mean(0)
    spread = max(float(np.sqrt(np.mean((x - mean) ** 2))), 1e-12)
    x, new = (x - mean) / spread, (new - mean) / spread
    folds = np.array_split(np.random.default_rng(seed).permutation(len(y)), _FOLDS)

    def hits(penalty: float) -> int:
        total = 0
        for fold in folds:
            rest = np.setdiff1d(np.arange(len(y)), fold)
            total += int(np.sum(logistic_regression(x[rest], y[rest], penalty)(x[fold]) == y[fold]))
        return total

    best = max(penalties, key=lambda penalty: (hits(penalty), penalty))
    return logistic_regression(x, y, best)(new)


def logistic_regression(
    x: Float[np.ndarray, "n dim"], y: Int[np.ndarray, " n"], penalty: float
) -> Callable[[Float[np.ndarray, "m dim"]], Int[np.ndarray, " m"]]:
    """Minimises the summed cross-entropy and half the penalty times the weights' squared length;
    the bias is free. Returns vectors → classes.
    """
    from scipy.optimize import minimize

    classes, number = np.unique(y, return_inverse=True)
    truth = np.eye(len(classes))[number]
    shape = (x.shape[1] + 1, len(classes))

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        scores = x @ weights[:-1] + weights[-1]
        scores = scores - scores.max(1, keepdims=True)
        log_total = np.log(np.exp(scores).sum(1, keepdims=True))
        error = np.exp(scores - log_total) - truth
        value = np.sum(truth * (log_total - scores)) + penalty / 2 * np.sum(weights[:-1] ** 2)
        gradient = np.concatenate([x.T @ error + penalty * weights[:-1], error.sum(0)[None]])
        return float(value), gradient.ravel()

    found = minimize(objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B",
                     options={"maxiter": 500}).x.reshape(shape)  # fmt: skip
    return lambda new: classes[np.argmax(new @ found[:-1] + found[-1], axis=1)]
