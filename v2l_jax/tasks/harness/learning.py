"""What tasks that a language model is fine-tuned on share: images as training texts show them."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from v2l_jax.representations import representation
from v2l_jax.representations.base import Ids, ImageSet, Segments
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness import loop


def learnable(
    run: Run, images: ImageSet, budget: int
) -> tuple[Sequence[Segments], np.ndarray | None]:
    """The segments of images, and what a connector that trains turns into vectors.

    Args:
      run: the run.
      images: what is written.
      budget: as for `Representation.segments`.

    Returns:
      Segments; and features [images, inputs, dim], whose vectors stand where the segments have the
      ids after the vocabulary's last, or None where nothing but words is written.
    """
    shown = representation(run.config)
    features = shown.features(run, images)
    if features is None:
        return loop.Writer(run, images)("none", budget), None
    first = run.llm.model.config.vocab_size
    slots = Ids(tuple(range(first, first + shown.vector_count(features))))
    return [(slots,)] * len(images), features


def trained_how(config: ConfigDict) -> str:
    """Fine-tuning in a line of a table."""
    f = config.finetune
    root = " over its root" if f.rank_stabilised else ""
    together = f" times {f.together}" if f.together > 1 else ""
    average = f", averaged over {f.ema:g}" if f.ema else ""
    return (
        f"rank {f.rank}, alpha {f.alpha:g}{root}, {' '.join(f.targets)}; {f.steps} steps of "
        f"{f.batch_size}{together}, rate {f.learning_rate:g}, seed {config.seed}{average}"
    )
