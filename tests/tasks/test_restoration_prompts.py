"""Masked restoration: the text that is asked, its masks, filling in step by step, and the baselines
by brute force.
"""

import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from v2l_jax.errors import DataError
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.parallel.mesh import make_mesh, replicate
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness.hidden_tokens import (
    copy_nearest,
    draw_masks,
    frequency_nats,
    most_frequent_word,
)
from v2l_jax.tasks.restoration import RestorationPrompt, restore

CONFIG = LlamaConfig(40, 32, 48, 2, 4, 2, 8, 64, 1e-5, rotary_frequencies(8, 10000.0))
MODEL = Llama(CONFIG)
PROMPT = RestorationPrompt(
    (1, 2, 3), (4, 5), 9, np.arange(30, 5, -1, dtype=np.int32)
)  # word 21 is the mask's token
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 20, (5, 16)).astype(np.int32)
MASKS = draw_masks(5, 16, 0.3, (7,))


@pytest.fixture(scope="module")
def params():
    start = MODEL.init(
        jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), jnp.int32)
    )["params"]
    return jax.tree.map(lambda x: x * 8 if x.ndim > 2 else x, start) | {
        name: start[name] * 40 for name in ("embedding", "output")
    }


def _run(params, mesh):
    """A run of the language model alone."""
    config = ConfigDict({"evaluate": {"restoration": {"batch_size": 2}}})
    run = Run(config, pathlib.Path())
    run.__dict__.update(
        mesh=mesh,
        llm=types.SimpleNamespace(model=MODEL),
        engine=types.SimpleNamespace(params=params),
    )
    return run


def test_the_text_shows_the_masked_grid_then_the_whole_one():
    batch = PROMPT.texts(IDS, MASKS)
    for words, mask, tokens, targets in zip(IDS, MASKS, batch["tokens"], batch["targets"]):
        shown = [9 if hidden else 30 - word for word, hidden in zip(words, mask)]
        assert tokens.tolist() == [1, 2, 3, *shown, 4, 5, *(30 - words)]
        assert [tokens[t] for t in targets] == [
            30 - word for word, hidden in zip(words, mask) if hidden
        ]
        assert targets.tolist() == [21 + i for i in np.flatnonzero(mask)]


def test_a_mask_hides_the_share_asked_and_depends_on_the_seed_and_the_image_alone():
    masks = draw_masks(2000, 16, 0.3, (7,))
    assert (masks.sum(1) == 5).all()
    np.testing.assert_array_equal(masks[:5], MASKS)
    assert (draw_masks(5, 16, 0.3, (8,)) != MASKS).any()
    np.testing.assert_allclose(
        masks.mean(0), 5 / 16, atol=4.5 * (5 / 16 * 11 / 16 / 2000) ** 0.5
    )  # uniform over positions
    assert draw_masks(1, 16, 0.001, (0,)).sum() == 1


@jax.jit
def _next_logits(params, tokens, length):
    state, _ = MODEL.apply({"params": params}, tokens[None], jnp.arange(64)[None])
    return MODEL.apply({"params": params}, state[0, length - 1], method="logits")


def _by_hand(params, context, mask):
    """One image, the whole text anew for each hidden word."""
    shown = [9 if hidden or word < 0 else 30 - word for word, hidden in zip(context, mask)]
    tokens, answer = [1, 2, 3, *shown, 4, 5], []
    for word, hidden in zip(context, mask):
        if hidden:
            logits = np.asarray(
                _next_logits(params, np.pad(tokens, (0, 64 - len(tokens))), len(tokens))
            )
            word = max((i for i in range(25) if i != 21), key=lambda i: logits[30 - i])
        answer.append(word)
        tokens.append(9 if word < 0 else 30 - word)
    return answer


@pytest.mark.mesh
@pytest.mark.parametrize("devices", [1, 8])
def test_filling_in_equals_asking_for_one_word_at_a_time(params, devices):
    context = IDS.copy()
    context[4] = -1  # the control that knows nothing of the image
    mesh = make_mesh({"data": -1}, jax.devices()[:devices])
    actual = restore(_run(replicate(params, mesh), mesh), PROMPT, context, MASKS)
    assert actual.tolist() == [_by_hand(params, c, m) for c, m in zip(context, MASKS)]
    assert (actual[MASKS] != IDS[MASKS]).any() and (
        actual[:4][~MASKS[:4]] == IDS[:4][~MASKS[:4]]
    ).all()
    assert len(np.unique(actual[MASKS])) > 3


def test_a_text_longer_than_the_context_is_refused(params):
    with pytest.raises(
        DataError, match="an image of 36 local words makes a text of 77 tokens.* has 64"
    ):
        run = _run(params, make_mesh({"data": -1}, jax.devices()[:1]))
        restore(run, PROMPT, np.zeros((1, 36), np.int32), np.ones((1, 36), bool))


def test_the_nearest_known_word_is_copied():
    masks = draw_masks(5, 16, 0.6, (1,))
    filled = copy_nearest(IDS, masks, (4, 4))
    at = np.stack(np.divmod(np.arange(16), 4), 1)
    for words, mask, result in zip(IDS, masks, filled):
        for i in range(16):
            distance = ((at[~mask] - at[i]) ** 2).sum(1)
            assert result[i] in words[~mask][distance == distance.min()]


def test_the_commonest_word():
    assert most_frequent_word(np.array([[3, 1, 1], [2, 1, 3]], np.int32)) == 1


def test_frequencies_are_those_of_the_training_images_plus_one():
    train = np.array([[[0, 1], [1, 1]]], np.int32)  # smoothed over 3 words: 2/7, 4/7, 1/7
    ids, masks = (
        np.array([[0, 1, 2], [1, 1, 0]], np.int32),
        np.array([[True, False, True], [True, False, False]]),
    )
    np.testing.assert_allclose(
        frequency_nats(train, ids, masks, 3), [-(np.log(2 / 7) + np.log(1 / 7)) / 2, -np.log(4 / 7)]
    )
