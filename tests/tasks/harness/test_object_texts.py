"""Objects as text and back; what counts of made-up ones."""

import numpy as np
import pytest

from v2l_jax.data.boxes import Objects
from v2l_jax.errors import DataError
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.tasks.harness.object_texts import DetectionTexts, ObjectText, made_up

BOXES = np.array([[10.0, 20, 30, 60], [0, 0, 80, 100]])
IMAGE = Objects(1, "a.png", (100, 80), (1, 0), BOXES)


@pytest.fixture(scope="module")
def how(asset):
    tokenizer = load_text_tokenizer(asset("smollm2-135m-instruct"))
    return lambda noise=False, **more: ObjectText(
        tokenizer, **{"names": ("dog", "ice cream"), "bins": 11, "objects": 4, **more}, noise=noise
    )


def test_a_text_in_words_and_back(how):
    plain = how()
    ids, targets = plain.training_text(IMAGE, np.random.default_rng(0))
    *lines, end = plain.tokenizer.decode(ids[:-1]).split(";")
    # top, left, bottom, right in tenths of 100 × 80 pixels; 10/80 of 10 is 1.25
    assert sorted(line.strip() for line in lines) == ["dog 00 00 10 10", "ice cream 02 01 06 04"]
    assert end == "" and ids[-1] == plain.tokenizer.eos_id
    assert targets == list(enumerate(ids)) and len(ids) <= plain.longest
    likely = -np.arange(len(ids), dtype=np.float32)
    found = plain.read(ids, likely, IMAGE.size)
    for label, box, *_ in found:
        np.testing.assert_allclose(box, BOXES[IMAGE.classes.index(label)], atol=5)
    first, _ = found
    name = plain.name_ids(plain.names[first[0]])
    one = ids.index(plain.semicolon[0]) + 1
    assert first[2] == -sum(range(len(name))) and first[3] == pytest.approx(-(one - 1) / 2)
    assert len(plain.read(ids[:-3], likely, IMAGE.size)) == 1  # the second is cut off


def test_the_grammar_permits_the_texts(how):
    for one in (how(), how(noise=True)):
        ids, targets = one.training_text(IMAGE, np.random.default_rng(0))
        if one.noise:  # what is shown as noise at half of the made-up boxes, the model never writes
            ids = ids[: min(at for at, label in targets if ids[at] != label or False)]
        grammar, state = one.grammar(), 0
        for token in ids:
            (column,) = np.flatnonzero(grammar.tokens[state] == token)
            state = grammar.following[state, column]
        assert (grammar.tokens[state, 0] < 0) == (not one.noise)


def test_of_made_up_objects_only_the_class_counts(how):
    noisy, shown = how(noise=True, objects=9), []
    noise = noisy.name_ids("noise")[0]
    for seed in range(20):
        ids, targets = noisy.training_text(IMAGE, np.random.default_rng(seed))
        lines = noisy.tokenizer.decode(ids).split(";")[:-1]
        assert len(lines) == 9 and len(ids) <= noisy.longest
        assert [label for _, label in targets].count(noise) == 7
        real = [at for at, label in targets if label != noise]
        assert [ids[at] for at in real] == [label for _, label in targets if label != noise]
        assert real == list(range(len(real)))  # all of the real ones, which come first
        shown += [line.split()[0] for line in lines[2:]]
    assert 0.35 < np.mean([name == "noise" for name in shown]) < 0.65


def test_made_up_boxes_lie_in_the_image_and_differ():
    boxes = made_up(IMAGE, 200, np.random.default_rng(0))
    assert boxes.shape == (200, 4) and (boxes >= 0).all()
    assert (boxes[:, [0, 2]] <= 80).all() and (boxes[:, [1, 3]] <= 100).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all() and len(np.unique(boxes, axis=0)) > 150
    empty = Objects(1, "a.png", (100, 80), (), np.zeros((0, 4)))
    assert made_up(empty, 3, np.random.default_rng(0)).shape == (3, 4)


def test_batches(how):
    noisy = how(noise=True)
    rows = {"train": [(0, [5, 6], IMAGE), (1, [5], IMAGE)], "held_out": []}
    texts = DetectionTexts(rows, noisy)
    batch = texts.texts("train", np.array([0, 1]), (3,))
    assert batch["tokens"].shape == (2, 2 + noisy.longest)
    for tokens, targets, labels in zip(batch["tokens"], batch["targets"], batch["labels"]):
        real = targets >= 0
        assert real.sum() > 4 and (targets[~real] == -1).all()
        same = tokens[targets[real]] == labels[real]
        assert set(labels[real][~same]) <= {noisy.name_ids("noise")[0]}
    assert not np.array_equal(texts.texts("train", np.array([0, 1]), (4,))["tokens"],
                              batch["tokens"])  # fmt: skip
    with pytest.raises(DataError, match="a text of 4 objects has"):
        texts.checked(20)


def test_a_class_called_noise_is_refused(how):
    with pytest.raises(DataError, match="a class is called 'noise'"):
        how(noise=True, names=("noise", "dog"))
