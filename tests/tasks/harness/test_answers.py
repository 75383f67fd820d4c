"""Ways to read answers off a language model, on SmolLM2 and on made-up models whose answers are
known.
"""

import numpy as np
import pytest

from v2l_jax.data.episodes import Episode, Example
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.text_tokenizers import TextTokenizer, load_text_tokenizer
from v2l_jax.representations.base import Text
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.tasks.few_shot import CONTENT_FREE, Scoring, answering, hits, make_prompts
from v2l_jax.tasks.harness.answers import LikeliestName, WrittenLine, name_mask
from v2l_jax.tasks.harness.prompts import encode, input_part

WORDS = [
    word_texts(words)
    for words in (
        [" cat", " kitten"], [" pizza", " cheese"], [" tabby", " cat"], [" crust", " pizza"],
    )
]  # fmt: skip
EPISODES = [
    Episode((Example(0, "cat"), Example(1, "pizza")), Example(2, "cat"), ("cat", "pizza")),
    Episode((Example(1, "pizza"), Example(0, "cat")), Example(3, "pizza"), ("cat", "pizza")),
]


def classify(engine, tokenizer, episodes, written, scoring):
    prompts = make_prompts(episodes, written, scoring)
    how = answering(episodes, prompts, scoring)
    return how.answer(engine, tokenizer, [prompt.whole for prompt in prompts], "asking")


def text_of(prompt):
    return "".join(segment.text for segment in prompt)


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
    assert [answer.strip() for answer in answers] == ["cat", "pizza"]
    assert hits(answers, EPISODES, scoring).all()


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
    assert answers == [" cat", "  pizza"] and hits(answers, EPISODES, scoring).tolist() == [
        True,
        False,
    ]
    assert (
        writer.texts == [text_of(prompt.whole) for prompt in make_prompts(EPISODES, WORDS, scoring)]
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
    assert recorder.texts[:2] == [text_of(prompt.whole) for prompt in prompts]
    assert recorder.texts[2:] == [
        text_of(p.shots + input_part((Text(blank),))) for blank in CONTENT_FREE for p in prompts
    ]


def test_what_is_asked_twice_is_answered_once(smollm2):
    tokenizer = smollm2[1]

    class Counter(LLMEngine):
        """Writes the number of its prompts, and scores by the place of a prompt."""

        def __init__(self):
            pass

        def generate_text(self, prompts, max_new_tokens, **rules):
            return [f" {len(prompts)}"] * len(prompts)

        def score_continuations(self, prompts, candidates, description):
            return [np.array([0.0, float(i)]) for i in range(len(prompts))]

    first, second = input_part((Text("a"),)), input_part((Text("b"),))
    asked = [first, second, first, first]
    assert WrittenLine(3).answer(Counter(), tokenizer, asked, "") == [" 2"] * 4
    names = [("x", "y")] * 3 + [("y", "x")]
    how = LikeliestName(names)
    assert how.answer(Counter(), tokenizer, asked, "") == ["x", "y", "x", "x"]


def test_a_name_ends_where_asked(smollm2):
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

    recorder, names = Recorder(), ("two", "two dogs", "no")
    prompts = [(Text("a"),), (Text("b"),)]
    how = LikeliestName([names] * 2, end="\n")
    assert how.answer(recorder, tokenizer, prompts, "") == ["two dogs", "two"]
    assert recorder.asked == [(p, [" two\n", " two dogs\n", " no\n"]) for p in "ab"]
    longest = len(tokenizer.encode(" two dogs\n"))
    assert how.longest(tokenizer) == [longest + 1] * 2


@pytest.mark.parametrize("rule", ["likelihood", "greedy", "constrained"])
def test_the_longest_answer_is_known_beforehand(smollm2, rule):
    scoring = Scoring(rule, calibrate=False)
    prompts = make_prompts(EPISODES, WORDS, scoring)
    longest = answering(EPISODES, prompts, scoring).longest(smollm2[1])
    assert (
        longest
        == [1 + max(len(encode(smollm2[1], (Text(f" {n}"),))) for n in ("cat", "pizza"))] * 2
    )
    assert WrittenLine(7).longest(smollm2[1]) == 7
