"""Visual question answering: the prompt's text, which examples are shown, and answers read off a
language model.
"""

import numpy as np
import pytest

from v2l_jax.data.questions import Question
from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.tasks import question_answering as vqa
from v2l_jax.tasks.question_answering import Asked


def _questions(images, texts=None):
    texts = texts or [f"question {i}" for i in range(len(images))]
    return [
        Question(f"{image}.jpg", text, ("yes",), "yes/no")
        for image, text in zip(images, texts, strict=True)
    ]


def test_the_prompt_is_the_published_one():
    shots = [
        (Asked((" cat", " kitten"), "what is it"), "cat"),
        (Asked((" bus",), "What color is it?"), "red"),
    ]
    assert vqa.question_prompt(shots, Asked((" dog", " puppy"), "is it big?")) == (
        "Condition: cat kitten. Question: what is it? Answer: cat\n"
        "Condition: bus. Question: What color is it? Answer: red\n"
        "Condition: dog puppy. Question: is it big? Answer:"
    )


def test_without_words_nothing_tells_of_an_image():
    pool = list(
        zip(
            [None, None],
            [Question("a", "what is it", ("two", "2", "2"), "number"), *_questions("b")],
        )
    )
    assert vqa.make_prompts([(None, _questions("c")[0])], pool, [(1, 0)]) == [
        "Question: question 0? Answer: yes\nQuestion: what is it? Answer: 2\nQuestion: question 0? Answer:"
    ]


def test_shots_are_of_other_images_and_depend_on_their_query_alone():
    pool = _questions([i // 3 for i in range(30)])
    drawn = vqa.draw_shots(pool, pool, 27, seed=3)
    for query, shots in zip(pool, drawn, strict=True):
        assert len(set(shots)) == 27 and query.image not in {pool[j].image for j in shots}
    assert vqa.draw_shots(pool[:5], pool, 27, seed=3) == drawn[:5]
    assert vqa.draw_shots(pool[:5], pool, 2, seed=3) == [shots[:2] for shots in drawn[:5]]
    assert vqa.draw_shots(pool, pool, 27, seed=4) != drawn
    counts = np.bincount(
        np.concatenate([vqa.draw_shots(pool[:1], pool, 2, seed=s)[0] for s in range(1350)]),
        minlength=30,
    )
    assert (counts[:3] == 0).all() and (np.abs(counts[3:] - 100) < 45).all(), (
        "each of 27 is drawn about 100 times"
    )
    with pytest.raises(
        DataError, match=r"28 examples were asked for, but only 27 questions .* than 0.jpg"
    ):
        vqa.draw_shots(pool, pool, 28, seed=3)


def test_similar_shots_end_with_the_most_similar():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool, queries = (
        _questions([i % 20 for i in range(30)]),
        _questions([i % 20 for i in range(30, 40)]),
    )
    chosen = vqa.similar_shots(
        queries, pool, vectors[30:].astype(np.float32), vectors[:30].astype(np.float32), 4, seed=0
    )
    for i, shots in enumerate(chosen):
        ranked = sorted(
            (j for j in range(30) if pool[j].image != queries[i].image),
            key=lambda j: vectors[30 + i] @ vectors[j],
        )
        assert list(shots) == ranked[-4:]


def test_equal_questions_are_drawn_by_seed():
    vectors = np.ones((20, 1), np.float32)
    pool = _questions(range(20))
    chosen = [
        vqa.similar_shots(pool[:1], pool, vectors[:1], vectors, 3, seed=s)[0] for s in range(40)
    ]
    assert len(set(chosen)) > 30 and {j for shots in chosen for j in shots} == set(range(1, 20))


@pytest.fixture(scope="module")
def smollm2(asset):
    path = asset("smollm2-135m-instruct")
    config, params = load_llama(path)
    return LLMEngine(Llama(config), params), load_text_tokenizer(path)


SHOTS = [
    (Asked((" cat", " kitten", " pet"), "what animal is it?"), "cat"),
    (Asked((" bus", " school", " yellow"), "what is the color of the bus?"), "yellow"),
    (Asked((" train", " rails", " station"), "what is on the tracks?"), "train"),
]
QUERIES = [
    (Asked((" pizza", " slice", " crust"), "what food is it?"), "pizza"),
    (Asked((" car", " red", " road"), "what is the color of the car?"), "red"),
    (Asked((" horse", " saddle", " farm"), "what is the cowboy riding?"), "horse"),
]
PROMPTS = [vqa.question_prompt(SHOTS, query) for query, _ in QUERIES]


def test_the_language_model_answers_from_obvious_words(smollm2):
    answers = vqa.answer_open(*smollm2, PROMPTS, 6)
    assert answers == [answer for _, answer in QUERIES]
    assert vqa.answer_closed(*smollm2, PROMPTS, ["red", "pizza", "horse", "surfboard"]) == answers


def test_a_closed_answer_is_the_likeliest_whole_line(smollm2):
    tokenizer = smollm2[1]

    class Recorder(LLMEngine):
        """Scores by a fixed table, and keeps what it was asked."""

        def __init__(self):
            pass

        def score_continuations(self, prompts, candidates, description):
            self.asked = [
                (tokenizer.decode(p), [tokenizer.decode(c) for c in cs])
                for p, cs in zip(prompts, candidates, strict=True)
            ]
            return [
                np.array([-3.0, -1.0, -2.0], np.float32),
                np.array([-1.0, -3.0, -2.0], np.float32),
            ]

    recorder = Recorder()
    assert vqa.answer_closed(recorder, tokenizer, ["a", "b"], ["two", "two dogs", "no"]) == [
        "two dogs",
        "two",
    ]
    assert recorder.asked == [(p, [" two\n", " two dogs\n", " no\n"]) for p in "ab"]


def test_prompts_that_do_not_fit_are_refused(smollm2):
    long = vqa.question_prompt(
        [(Asked((" word",) * 3000, "what?"), "it")] * 3, Asked((" word",), "what?")
    )
    with pytest.raises(DataError, match=r"1 of 2 prompts do not fit .*prompt 1: 9\d\d\d"):
        vqa.answer_open(*smollm2, [PROMPTS[0], long])
