"""Training batches of a task's texts: order, resuming, and their split over processes."""

import jax
import numpy as np
import pytest

from v2l_jax.errors import DataError
from v2l_jax.llm.training_texts import TextBatches
from v2l_jax.tasks.restoration import RestorationPrompt, RestorationTexts

PROMPT = RestorationPrompt((1, 2, 3), (4, 5), 9, np.arange(30, 5, -1, dtype=np.int32))
IDS = np.random.default_rng(0).integers(0, 20, (5, 16)).astype(np.int32)
TEXTS = RestorationTexts(PROMPT, {"train": IDS}, 0.3)


def test_training_batches_go_on_where_they_stopped_and_split_over_processes():
    batches = TextBatches(TEXTS, 4, 3, np.arange(4))
    expected = [next(batches) for _ in range(5)]
    assert batches.get_state() == 5
    resumed = TextBatches(TEXTS, 4, 3, np.arange(4))
    parts = [TextBatches(TEXTS, 4, 3, rows) for rows in (np.array([1, 2]), np.array([0, 3]))]
    resumed.set_state(3)
    jax.tree.map(np.testing.assert_array_equal, [next(resumed), next(resumed)], expected[3:])
    for batch in expected:
        one, two = (next(part) for part in parts)
        for name in batch:
            np.testing.assert_array_equal(
                batch[name][[1, 2, 0, 3]], np.concatenate([one[name], two[name]])
            )


def test_every_epoch_shows_every_image_with_other_masks():
    batches = TextBatches(TEXTS, 1, 0, np.arange(1))
    epochs = [[next(batches) for _ in range(5)] for _ in range(2)]
    answers = [{tuple(batch["tokens"][0, -16:]) for batch in epoch} for epoch in epochs]
    assert answers[0] == answers[1] == {tuple(30 - words) for words in IDS}
    assert len({tuple(batch["targets"][0]) for epoch in epochs for batch in epoch}) > 5


def test_more_images_a_batch_than_there_are_is_refused():
    with pytest.raises(DataError, match="a batch of 6 images .* but there are 5"):
        TextBatches(TEXTS, 6, 0, np.arange(6))
