"""Few-shot classification: prompts, answers and controls, on a made-up model whose likelihoods are known."""

import numpy as np
import pytest

from v2l_jax.data.episodes import Episode, Example, draw_episodes
from v2l_jax.incontext.classification import CONTENT_FREE, Scoring, classify, hits, make_prompts, shuffle_words
from v2l_jax.incontext.decoding import Decoder
from v2l_jax.incontext.prompts import query_text
from v2l_jax.towers.llama import Llama, load_llama
from v2l_jax.weights.text_tokenizers import load_text_tokenizer

WORDS = [(" cat", " kitten"), (" pizza", " cheese"), (" tabby", " cat"), (" crust", " pizza")]
EPISODES = [
    Episode((Example(0, "cat"), Example(1, "pizza")), Example(2, "cat"), ("cat", "pizza")),
    Episode((Example(1, "pizza"), Example(0, "cat")), Example(3, "pizza"), ("cat", "pizza")),
]


@pytest.fixture(scope="module")
def smollm2(asset):
    path = asset("smollm2-135m-instruct")
    config, params = load_llama(path)
    return Decoder(Llama(config), params), load_text_tokenizer(path)


@pytest.mark.parametrize("scoring", [Scoring(), Scoring(calibrate=False), Scoring("greedy", calibrate=False)], ids=str)
def test_the_language_model_names_obvious_words(smollm2, scoring):
    chosen = classify(*smollm2, EPISODES, WORDS, scoring)
    assert hits(chosen, EPISODES).tolist() == [True, True]


def test_calibration_subtracts_the_mean_of_content_free_queries(smollm2):
    decoder, tokenizer = smollm2

    class Recorder(Decoder):
        """Scores by a fixed table, and keeps what it was asked."""

        def __init__(self):
            pass

        def score_continuations(self, prompts, candidates, description):
            self.texts = [tokenizer.decode(prompt) for prompt in prompts]
            prior = [np.array([-1.0, -3.0]), np.array([-2.0, -5.0])]
            asked = [np.array([-1.1, -1.5]), np.array([-0.5, -4.0])]
            return (asked + prior * len(CONTENT_FREE))[: len(prompts)]

    recorder = Recorder()
    assert classify(recorder, tokenizer, EPISODES, WORDS, Scoring()).tolist() == [1, 0]  # -0.1 < 1.5, 1.5 > 1.0
    assert classify(recorder, tokenizer, EPISODES, WORDS, Scoring(calibrate=False)).tolist() == [0, 0]
    classify(recorder, tokenizer, EPISODES, WORDS, Scoring())
    prompts = make_prompts(EPISODES, WORDS, Scoring())
    assert recorder.texts[:2] == [str(prompt) for prompt in prompts]
    assert recorder.texts[2:] == [p.shots + query_text((blank,)) for blank in CONTENT_FREE for p in prompts]


def test_shuffled_words_come_from_another_image():
    words = [(str(i),) for i in range(50)]
    for seed in range(20):
        shuffled = shuffle_words(words, seed)
        assert sorted(shuffled) == sorted(words) and all(a != b for a, b in zip(words, shuffled, strict=True))
    assert shuffle_words(words, 0) == shuffle_words(words, 0) != shuffle_words(words, 1)


def test_prompts_show_shots_and_query_of_the_episode():
    labels = np.repeat(np.arange(3), 6)
    words = [(f" w{i}",) for i in range(18)]
    for episode in draw_episodes(labels, ("a", "b", "c"), 2, 2, 10, seed=1):
        text = str(make_prompts([episode], words, Scoring(induction=False))[0])
        shown = [f"w{shot.index} >\nOutput: {shot.class_name}" for shot in episode.shots]
        assert [part for part in shown if part in text] == shown
        assert text.endswith(f"< w{episode.query.index} >\nOutput:")
