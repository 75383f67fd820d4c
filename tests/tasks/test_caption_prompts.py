"""Captioning: episodes, prompts, and captions by SmolLM2 that can be told beforehand."""

import pytest

from v2l_jax.data.captions import CaptionedImages
from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.tasks.caption_prompts import (
    caption_prompt,
    draw_episodes,
    make_prompts,
    write_captions,
)

EXAMPLES = [(f"caption {i}.", f"text {i}.") for i in range(12)]
QUERIES = [("Caption 3.",), ("of its own", "TEXT 7.")]


@pytest.fixture(scope="module")
def smollm2(asset):
    path = asset("smollm2-135m-instruct")
    config, params = load_llama(path)
    return LLMEngine(Llama(config), params), load_text_tokenizer(path)


def test_prompt_is_the_papers():
    assert caption_prompt(
        [((" cat", " tabby"), "A cat."), ((" dog",), "A dog runs.")], (" pizza", " crust")
    ) == (
        "###\nInput: < cat tabby >\nOutput: A cat.\n###\nInput: < dog >\nOutput: A dog runs.\n###\nInput: < pizza crust >\nOutput:"
    )


def test_no_example_shows_a_caption_of_the_query():
    for seed in range(30):
        episodes = draw_episodes(QUERIES, EXAMPLES, shots=11, seed=seed)
        for episode, hidden in zip(episodes, (3, 7), strict=True):
            drawn = [index for index, _ in episode.shots]
            assert sorted(drawn) == [i for i in range(12) if i != hidden]
            assert all(caption in EXAMPLES[index] for index, caption in episode.shots)


def test_draw_is_by_seed_and_does_not_change_with_the_other_queries():
    one = draw_episodes(QUERIES, EXAMPLES, 4, seed=1)
    assert one == draw_episodes([*QUERIES, ("another",)], EXAMPLES, 4, seed=1)[:2]
    assert one != draw_episodes(QUERIES, EXAMPLES, 4, seed=2)
    captions = {
        caption
        for seed in range(20)
        for episode in draw_episodes(QUERIES, EXAMPLES, 4, seed)
        for _, caption in episode.shots
    }
    assert any(c.startswith("text") for c in captions) and any(
        c.startswith("caption") for c in captions
    )


def test_too_few_examples_are_named():
    with pytest.raises(
        DataError, match="12 examples are asked, but there are 11 images with another caption"
    ):
        draw_episodes(QUERIES, EXAMPLES, 12, seed=0)


def test_prompts_show_the_words_of_each_image():
    query_words = [("q0",), ("q1",)]
    example_words = [(f"e{i}",) for i in range(12)]
    for prompt, episode in zip(
        make_prompts(
            episodes := draw_episodes(QUERIES, EXAMPLES, 3, 0), query_words, example_words
        ),
        episodes,
        strict=True,
    ):
        shots = [
            f"###\nInput: < e{index} >\nOutput: {caption}\n" for index, caption in episode.shots
        ]
        assert prompt == "".join(shots) + f"###\nInput: < q{episode.query} >\nOutput:"


def test_captions_follow_the_examples_and_are_one_line(smollm2):
    names = ("cat", "dog", "pizza", "car", "tree")
    shots = [((f" {name}",), f"This picture shows a {name}.") for name in names]
    asked = ("horse", "boat", "apple")
    captions = write_captions(
        *smollm2, [caption_prompt(shots, (f" {name}",)) for name in asked], max_new_tokens=16
    )
    assert captions == [
        f"This picture shows {'an' if name[0] in 'aeiou' else 'a'} {name}." for name in asked
    ]
    cut = write_captions(*smollm2, [caption_prompt(shots, (" horse",))], max_new_tokens=3)
    assert cut == ["This picture shows"]


def test_a_captioned_set_draws_from_itself():
    source = CaptionedImages(("a.png", "b.png", "c.png"), (("one",), ("two",), ("one", "three")))
    (episode,) = draw_episodes(source.captions[:1], source.captions, 1, seed=0)
    assert episode.shots == ((1, "two"),)
