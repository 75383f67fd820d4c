"""What representations share that a trained network turns into vectors."""

from collections.abc import Sequence

import numpy as np

from v2l_jax.errors import ConfigError
from v2l_jax.llm.connector import connect
from v2l_jax.representations.base import Ids, ImageSet, Representation, Segments, Slots, Written
from v2l_jax.run import adapters
from v2l_jax.run.run import Run


class Connected(Representation):
    """An image is the vectors that the finetune job's network makes of its features. The budget is
    not looked at.
    """

    def prepare(self, run: Run, images: ImageSet, budget: int) -> None:
        """Makes what is kept of the features, unless it is there."""
        del budget
        self.features(run, images)

    def segments(self, run: Run, images: ImageSet, budget: int) -> Sequence[Segments]:
        """The vectors of the trained network."""
        del budget
        params, features = adapters.trained_connector(run), self.features(run, images)
        if features is None:
            raise ConfigError(f"{type(self).__module__} has no features to make vectors of")
        return Written(len(images), lambda i: (Slots(np.asarray(connect(params, features[i]))),))

    def shortest(self, budget: int) -> Segments:
        """One place; how many vectors there are, the tower's file may say."""
        del budget
        return (Ids((0,)),)


def own_rows(run: Run) -> tuple[np.ndarray, np.ndarray, float]:
    """The language model's rows, their mean, and the spread of their numbers about it."""
    own = np.asarray(run.llm.params["embedding"], np.float32)
    return own, own.mean(0), float((own - own.mean(0)).std())
