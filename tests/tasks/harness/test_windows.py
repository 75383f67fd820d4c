"""Windows filled in by the engine, as denoising asks for them, against a plain restatement of the
published loop: one picture, one window, one token at a time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.codebook.single_tokens import SingleTokens
from v2l_jax.data.corruptions import CORRUPTIONS, hole
from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.tasks.denoising import FILLING, Options, prompt_pieces, replaced_words, restore, vote
from v2l_jax.tasks.harness import windows
from v2l_jax.tasks.harness.noised_examples import NoisedExamples
from v2l_jax.tasks.harness.windows import PromptPieces, cover

CONFIG = LlamaConfig(
    40, 32, 48, 2, 4, 2, 8, 96, 1e-5, rotary_frequencies(8, 10000.0), tied_embeddings=True
)
PIECES = PromptPieces((1, 7, 8), (2, 9), (3, 5, 6))
SIDE, WORDS, PICTURES = 8, 24, 3
VOCABULARY = SingleTokens(np.random.default_rng(0).permutation(40)[:WORDS].astype(np.int32))


def draw_examples(true, shown, words, options, seed):
    counts = replaced_words(options, true[0].size)
    return NoisedExamples.draw(true, shown, words, counts, seed)


@pytest.fixture(scope="module")
def model():
    return Llama(CONFIG)


@pytest.fixture(scope="module")
def params(model):
    start = model.init(
        jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), jnp.int32)
    )["params"]
    return jax.tree.map(lambda x: x * 8 if x.ndim > 2 else x, start) | {
        "embedding": start["embedding"] * 5
    }


@pytest.fixture(scope="module")
def engine(model, params):
    return LLMEngine(model, params, token_budget=512)


@pytest.fixture(scope="module")
def next_token(model, params):
    """The likeliest of some tokens after a sequence, by one forward pass."""

    @jax.jit
    def logits(tokens):
        hidden, _ = model.apply({"params": params}, tokens[None], jnp.arange(96)[None])
        return model.apply({"params": params}, hidden[0], method="logits")

    def best(ids, allowed):
        row = np.asarray(logits(np.pad(np.asarray(ids, np.int32), (0, 96 - len(ids)))))[
            len(ids) - 1
        ]
        return max(allowed, key=lambda token: row[token])

    return best


def _words(seed):
    return np.random.default_rng(seed).integers(0, WORDS, (PICTURES, SIDE, SIDE)).astype(np.int32)


def _published_loop(next_token, shown, examples_in, examples_out, corruption, window, context):
    """One picture, as the published script goes about it, its sequence of global and local tokens
    included.
    """
    globals_ = [31, 32, 33]
    tokens = [int(VOCABULARY.token_ids[w]) for w in shown.ravel()]
    change = globals_ + tokens
    disturbed_in, disturbed_out = (
        [globals_ + [int(VOCABULARY.token_ids[w]) for w in example] for example in table]
        for table in (examples_in, examples_out)
    )
    missing = []
    for row in range(SIDE):
        for column in range(SIDE):
            centre = SIDE // 4 <= row < SIDE - SIDE // 4 and SIDE // 4 <= column < SIDE - SIDE // 4
            missing.append(
                {"inpainting": centre, "outpainting": row >= SIDE // 2}.get(corruption, True)
            )
    start, fills = len(globals_), corruption in ("inpainting", "outpainting")
    while start < len(change):
        if not missing[start - len(globals_)]:
            start += 1
            continue
        prompt = list(PIECES.instruction)
        for example_in, example_out in zip(disturbed_in, disturbed_out):
            seen = (
                example_out[start - context : start]
                if fills
                else example_in[start : start + window]
            )
            prompt += [*PIECES.input, *seen, *PIECES.output, *example_out[start : start + window]]
        seen = change[start - context : start] if fills else change[start : start + window]
        prompt += [*PIECES.input, *seen, *PIECES.output]
        new = []
        for _ in range(window):
            new.append(next_token(prompt + new, VOCABULARY.token_ids.tolist()))
        new = new[: len(change) - start]
        change[start : start + len(new)] = new
        start += window
    rows = {int(token): row for row, token in enumerate(VOCABULARY.token_ids)}
    return np.asarray([rows[token] for token in change[len(globals_) :]]).reshape(SIDE, SIDE)


@pytest.mark.parametrize("window", [2, 3])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_engine_predicts_what_the_published_loop_predicts(
    engine, next_token, corruption, window, monkeypatch
):
    monkeypatch.setattr(windows, "_PROMPTS_AT_ONCE", 64)  # more than one call
    options = Options(window=window, context=6, rates=(0.5, 0.3), counted_globals=3)
    true, shown = _words(1), _words(1 if corruption in FILLING else 2)
    examples = draw_examples(true, shown, WORDS, options, seed=4)
    restored = restore(engine, PIECES, VOCABULARY, shown, examples, corruption, options)
    for i in range(PICTURES):
        expected = _published_loop(
            next_token, shown[i], examples.inputs[i], examples.outputs[i], corruption, window, 6
        )
        np.testing.assert_array_equal(restored[i], expected)
    assert len(np.unique(restored)) > 9  # the model does not say the same everywhere


@pytest.mark.parametrize("corruption", FILLING)
def test_the_query_does_not_see_what_it_asks_for(engine, corruption):
    options = Options(context=6, rates=(0.5,), counted_globals=0)
    true = _words(1)
    examples = draw_examples(true, true, WORDS, options, seed=4)
    masked = np.where(hole(corruption, SIDE, SIDE), 0, true)
    restored = [
        restore(engine, PIECES, VOCABULARY, shown, examples, corruption, options)
        for shown in (true, masked)
    ]
    np.testing.assert_array_equal(restored[0], restored[1])
    untouched = ~hole(corruption, SIDE, SIDE)
    np.testing.assert_array_equal(restored[0][:, untouched], true[:, untouched])


def test_a_picture_is_restored_alone_as_among_others(engine):
    options = Options(context=6, rates=(0.5,))
    shown = _words(2)
    examples = draw_examples(_words(1), shown, WORDS, options, seed=4)
    together = restore(engine, PIECES, VOCABULARY, shown, examples, "outpainting", options)
    alone = restore(
        engine, PIECES, VOCABULARY, shown[1:2], examples.of_images([1]), "outpainting", options
    )
    np.testing.assert_array_equal(together[1:2], alone)


def test_prompts_that_do_not_fit_are_named(engine):
    options = Options(context=6, rates=(0.5,) * 12)
    examples = draw_examples(_words(1), _words(2), WORDS, options, seed=4)
    with pytest.raises(DataError, match="context of 96"):
        restore(engine, PIECES, VOCABULARY, _words(2), examples, "rotation", options)


def test_replaced_words_of_the_published_schedule():
    published = [
        138,
        130,
        121,
        113,
        105,
        96,
        88,
        80,
        72,
        63,
    ]  # np.int64(rate * 277) with 21 global tokens
    assert replaced_words(Options(), 256) == tuple(published)
    assert replaced_words(Options(counted_globals=0), 256) == (
        128,
        120,
        112,
        104,
        97,
        89,
        81,
        74,
        66,
        58,
    )
    assert replaced_words(Options(rates=(1.0,)), 256) == (256,)


def test_examples_replace_the_same_words_in_input_and_output():
    true, shown = np.zeros((40, 16, 16), np.int32), np.ones((40, 16, 16), np.int32)
    examples = draw_examples(true, shown, 1_000_000, Options(), seed=3)
    replaced = examples.outputs != 0
    np.testing.assert_array_equal(replaced, examples.inputs != 1)
    np.testing.assert_array_equal(examples.outputs[replaced], examples.inputs[replaced])
    np.testing.assert_array_equal(
        replaced.sum(-1), np.tile(replaced_words(Options(), 256), (40, 1))
    )
    # Positions are uniform: each is replaced in 0.393 of the 400 examples, give or take 4.5
    # standard deviations.
    np.testing.assert_allclose(
        replaced.mean((0, 1)), sum(replaced_words(Options(), 256)) / 2560, atol=0.11
    )
    assert abs(examples.outputs[replaced].mean() / 500_000 - 1) < 0.02
    again = draw_examples(true[:2], shown[:2], 1_000_000, Options(), seed=3)
    np.testing.assert_array_equal(again.outputs, examples.outputs[:2])
    assert (
        draw_examples(true[:2], shown[:2], 1_000_000, Options(), seed=4).outputs != again.outputs
    ).any()


@pytest.mark.parametrize(("size", "starts"), [(2, [68, 70, 72, 74]), (3, [68, 71, 74]), (8, [68])])
def test_windows_of_the_first_row_of_a_hole(size, starts):
    found = cover(hole("inpainting", 16, 16).ravel(), size)
    assert [w.start for w in found if w.start < 80] == starts
    assert all(w.stop - w.start == size for w in found)


def test_windows_cover_every_missing_word_once():
    for corruption in CORRUPTIONS:
        missing = hole(corruption, 16, 16).ravel()
        covered = np.concatenate([np.arange(w.start, w.stop) for w in cover(missing, 2)])
        np.testing.assert_array_equal(covered, np.flatnonzero(missing))
    assert cover(np.ones(5, bool), 2)[-1] == slice(4, 5)


def test_the_vote_reads_the_answer_off_the_published_examples():
    true, shown = _words(1), _words(2)
    examples = draw_examples(true, shown, WORDS, Options(counted_globals=0), seed=0)
    elected = vote(shown, examples, "shift")
    for i, row, column in np.ndindex(elected.shape):
        ballots = examples.outputs[i, :, row * SIDE + column].tolist()
        assert ballots.count(elected[i, row, column]) == max(map(ballots.count, ballots))
    assert (elected == true).mean() > 0.97
    tied = NoisedExamples(
        np.zeros((1, 2, 4), np.int32), np.asarray([[[1, 1, 1, 1], [2, 1, 2, 1]]], np.int32)
    )
    np.testing.assert_array_equal(
        vote(np.zeros((1, 2, 2), np.int32), tied, "shift"), [[[2, 1], [2, 1]]]
    )


def test_fixed_texts_are_the_published_ones(asset):
    tokenizer = load_text_tokenizer(asset("smollm2-135m-instruct"))
    pieces = prompt_pieces(tokenizer, 2)
    texts = [tokenizer.decode(ids) for ids in (pieces.instruction, pieces.input, pieces.output)]
    assert texts == [
        "Learning a new language and predict the 2 tokens following the examples.\n",
        "###\nInput: < ",
        " >\nOutput: ",
    ]
