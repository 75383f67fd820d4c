"""What an answer costs beside how good it is: rows that stand in the same table as the accuracy."""

from collections.abc import Sequence

import jax
import numpy as np

from v2l_jax.llm.connector import matrix_products
from v2l_jax.llm.costs import adapter_parameters, training_flops
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.report.tables import Number
from v2l_jax.representations import representation
from v2l_jax.representations.base import Ids, ImageSet, Segments, Slots
from v2l_jax.run import adapters
from v2l_jax.run.run import Run

LABELS = {
    "visual_tokens": "Visual tokens",
    "trained_parameters": "Trained parameters, M",
    "training_flops": "Training, TFLOP",
    "tokenize_seconds": "Tokenizing 1,000 images, s",
}
NUMBERS = {
    "visual_tokens": Number(1, counted=False),
    "trained_parameters": Number(2, scale=1e-6, counted=False),
    "training_flops": Number(1, scale=1e-12, counted=False),
    "tokenize_seconds": Number(1, counted=False),
}


def visual_tokens(image: Segments) -> int:
    """Tokens that an image takes, where it is written in ids or vectors."""
    return sum(
        len(s.ids) if isinstance(s, Ids) else len(s.vectors) if isinstance(s, Slots) else 0
        for s in image
    )


def cost_rows(
    run: Run,
    images: ImageSet,
    shown: Sequence[Segments],
    texts: Sequence[tuple[int, int]],
    tuned: bool,
    shared: float = 0.0,
    **measured_on: Scalar,
) -> list[Result]:
    """Rows of what a setting costs.

    Args:
      run: the run.
      images: what the segments are of.
      shown: the images' segments.
      texts: for questions like those that are learnt, tokens of the whole text and of its answer.
      tuned: whether the language model is fine-tuned; else nothing was trained.
      shared: tokens that the texts of an image begin with, which are read once for those that are
        learnt together.
      measured_on: fields that make the rows stand beside those of the accuracy.

    Returns:
      The metrics of `LABELS`: training_flops are those of all steps together, in the formulas of
      `llm.costs`; tokenize_seconds is measured while the images' features are made, and missing
      where that was not noted.
    """
    rows = [mean("visual_tokens", [float(visual_tokens(x)) for x in shown], **measured_on)]
    if tuned:
        c, lora, config = run.config.finetune, adapters.lora(run.config), run.llm.model.config
        length, answer = np.mean(np.asarray(texts, np.float64).reshape(-1, 2), axis=0)
        parameters = adapter_parameters(config, lora)
        new, connector = adapters.trained_rows(run), adapters.connector_of(run)
        parameters += 0 if new is None else new.size
        parameters += sum(x.size for x in jax.tree.leaves(connector))
        read = representation(run.config).features(run, images) if connector else None
        sizes = [] if read is None else matrix_products(connector, read.shape[1])
        flops = lambda length, answer: training_flops(config, lora, length, answer, sizes)
        step = c.together * flops(length, answer) - (c.together - 1) * flops(shared, 0)
        rows += [
            Result("trained_parameters", float(parameters), 1, None, measured_on),
            Result("training_flops", step * c.steps * c.batch_size, 1, None, measured_on),
        ]
    seconds = representation(run.config).tokenize_seconds(run, images)
    if seconds is not None:
        rows.append(Result("tokenize_seconds", seconds, len(images), None, measured_on))
    return rows
