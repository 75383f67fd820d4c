"""Few-shot classification: prompts, answers and controls, on a made-up model whose likelihoods are
known.
"""

import numpy as np
import pytest

from v2l_jax.data.episodes import Episode, Example, draw_episodes
from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.text_tokenizers import TextTokenizer, load_text_tokenizer
from v2l_jax.tasks.classification import (
    CONTENT_FREE,
    Scoring,
    check_lengths,
    classify,
    derangement,
    hits,
    make_prompts,
    name_mask,
    shuffle_words,
)
from v2l_jax.tasks.prompts import query_text

WORDS = [(" cat", " kitten"), (" pizza", " cheese"), (" tabby", " cat"), (" crust", " pizza")]
EPISODES = [
    Episode((Example(0, "cat"), Example(1, "pizza")), Example(2, "cat"), ("cat", "pizza")),
    Episode((Example(1, "pizza"), Example(0, "cat")), Example(3, "pizza"), ("cat", "pizza")),
]


@pytest.fixture(scope="module")
def smollm2(asset):
    path = asset("smollm2-135m-instruct")
    config, params = load_llama(path)
    return LLMEngine(Llama(config), params), load_text_tokenizer(path)


@pytest.mark.parametrize(
    "scoring",
    [Scoring(), Scoring(calibrate=False), Scoring("greedy", False), Scoring("constrained", False)],
    ids=str,
)
def test_the_language_model_names_obvious_words(smollm2, scoring):
    answers = classify(*smollm2, EPISODES, WORDS, scoring)
    assert answers == ["cat", "pizza"] and hits(answers, EPISODES, scoring).all()


def test_without_induction_the_answer_is_what_the_model_writes_on_the_line(smollm2):
    _, tokenizer = smollm2

    class Writer(LLMEngine):
        """Writes two given texts, and keeps what it was asked."""

        def __init__(self):
            pass

        def generate_text(self, prompts, max_new_tokens, *, stop_strings, description):
            self.texts, self.max_new_tokens = (
                [tokenizer.decode(prompt) for prompt in prompts],
                max_new_tokens,
            )
            return [
                stop_strings.text_before(tokenizer.encode(text))
                for text in (" cat\n###\nInput", "  pizza")
            ]

    writer, scoring = Writer(), Scoring("greedy", False, induction=False, repetitions=1)
    answers = classify(writer, tokenizer, EPISODES, WORDS, scoring)
    assert answers == ["cat", " pizza"] and hits(answers, EPISODES, scoring).tolist() == [
        True,
        False,
    ]
    assert (
        writer.texts == [str(prompt) for prompt in make_prompts(EPISODES, WORDS, scoring)]
        and writer.max_new_tokens == 16
    )


class Spelled(TextTokenizer):
    """A tokenizer of made-up names: a letter is a token, 0 the end."""

    eos_id = 0

    def __init__(self):
        pass

    def encode(self, text):
        return [ord(letter) - 96 for letter in text.strip()]


def test_the_mask_permits_the_ith_token_of_any_name_and_the_end_after_its_last():
    assert name_mask(Spelled(), ("ab", "cbd")) == [[1, 3], [2], [0, 4]]
    assert name_mask(Spelled(), ("a", "c")) == [[1, 3]]  # only the end could follow
    assert name_mask(Spelled(), ("a", "abc")) == [[1], [0, 2], [3]]


def test_a_written_answer_is_right_if_it_starts_with_the_name_and_a_chosen_one_if_it_is_the_name():
    episodes = [Episode((), Example(0, "hot dog"), ("hot dog", "hot dog stand"))] * 4
    answers = ["hot dog", "hot dog stand", "hot", "a hot dog"]
    assert hits(answers, episodes, Scoring("greedy", False)).tolist() == [True, True, False, False]
    assert hits(answers, episodes, Scoring("constrained", False)).tolist() == [
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "scoring",
    [Scoring(), Scoring("greedy", False), Scoring("greedy", False, induction=False)],
    ids=str,
)
def test_prompts_that_are_too_long_are_named_before_anything_runs(smollm2, scoring):
    check_lengths(*smollm2, EPISODES, WORDS, scoring)
    long = [words if i != 3 else (" crust",) * 8192 for i, words in enumerate(WORDS)]
    with pytest.raises(
        DataError,
        match=r"1 of 2 prompts do not fit the model's context of 8192 tokens, answer included \(prompt 1: 82\d\d\)",
    ):
        check_lengths(*smollm2, EPISODES, long, scoring)


def test_calibration_subtracts_the_mean_of_content_free_queries(smollm2):
    engine, tokenizer = smollm2

    class Recorder(LLMEngine):
        """Scores by a fixed table, and keeps what it was asked."""

        def __init__(self):
            pass

        def score_continuations(self, prompts, candidates, description):
            self.texts = [tokenizer.decode(prompt) for prompt in prompts]
            prior = [np.array([-1.0, -3.0]), np.array([-2.0, -5.0])]
            asked = [np.array([-1.1, -1.5]), np.array([-0.5, -4.0])]
            return (asked + prior * len(CONTENT_FREE))[: len(prompts)]

    recorder = Recorder()
    assert classify(recorder, tokenizer, EPISODES, WORDS, Scoring()) == [
        "pizza",
        "cat",
    ]  # -0.1 < 1.5, 1.5 > 1.0
    assert classify(recorder, tokenizer, EPISODES, WORDS, Scoring(calibrate=False)) == [
        "cat",
        "cat",
    ]
    classify(recorder, tokenizer, EPISODES, WORDS, Scoring())
    prompts = make_prompts(EPISODES, WORDS, Scoring())
    assert recorder.texts[:2] == [str(prompt) for prompt in prompts]
    assert recorder.texts[2:] == [
        p.shots + query_text((blank,)) for blank in CONTENT_FREE for p in prompts
    ]


def test_shuffled_words_come_from_another_image():
    words = [(str(i),) for i in range(50)]
    for seed in range(20):
        shuffled = shuffle_words(words, seed)
        assert sorted(shuffled) == sorted(words) and all(
            a != b for a, b in zip(words, shuffled, strict=True)
        )
        assert shuffled == [words[i] for i in derangement(50, seed)]
    assert shuffle_words(words, 0) == shuffle_words(words, 0) != shuffle_words(words, 1)


def test_without_words_prompts_differ_only_in_their_classes():
    (first, second) = make_prompts(EPISODES, [()] * len(WORDS), Scoring())
    assert "Input: <  >\nOutput: cat\n" in str(first)
    assert first.query == second.query == "###\nInput: <  >\nOutput:"


def test_prompts_show_shots_and_query_of_the_episode():
    labels = np.repeat(np.arange(3), 6)
    words = [(f" w{i}",) for i in range(18)]
    for episode in draw_episodes(labels, ("a", "b", "c"), 2, 2, 10, seed=1):
        text = str(make_prompts([episode], words, Scoring(induction=False))[0])
        shown = [f"w{shot.index} >\nOutput: {shot.class_name}" for shot in episode.shots]
        assert [part for part in shown if part in text] == shown
        assert text.endswith(f"< w{episode.query.index} >\nOutput:")
