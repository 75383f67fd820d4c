"""Stage 1 against prompts that are run one by one, in full."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.codebook.expand import PREFIX, expand, ngram_records, prompt_ids
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.text_tokenizers import load_text_tokenizer


@pytest.fixture(scope="module")
def smollm2(asset):
    path = asset("smollm2-135m-instruct")
    config, params = load_llama(path)
    return Llama(config), params, load_text_tokenizer(path)


def test_continuations_equal_whole_prompts(smollm2):
    model, params, tokenizer = smollm2
    subwords = [
        tokenizer.encode(text)[0] for text in (" dog", "dog", " San", " ice", "ing", " French")
    ]
    found = expand(model, params, tokenizer, subwords, batch_size=4)

    @jax.jit
    def next_token(params, tokens):
        hidden, _ = model.apply({"params": params}, tokens, jnp.arange(tokens.shape[1])[None])
        return jnp.argmax(model.apply({"params": params}, hidden[:, -1], method="logits"), -1)

    for first, continuation in zip(prompt_ids(tokenizer, subwords), found, strict=True):
        prompt = [*tokenizer.encode(PREFIX), int(first)]
        for token in continuation:
            assert int(next_token(params, jnp.asarray([prompt]))[0]) == token
            prompt.append(int(token))


@pytest.mark.parametrize("adds_bos", [False, True])
def test_prompts_begin_as_the_tokenizer_begins_them(smollm2, adds_bos):
    """A random network, whose answers hang on every token before them."""
    tokenizer = dataclasses.replace(smollm2[2], adds_bos=adds_bos, bos_id=1)
    sizes = LlamaConfig(
        tokenizer.vocab_size, 16, 16, 1, 1, 1, 16, 64, 1e-6, rotary_frequencies(16, 1e4)
    )
    model = Llama(sizes)
    one = jnp.zeros((1, 1), jnp.int32)
    like = jax.eval_shape(model.init, jax.random.key(0), one, one)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), like["params"]
    )
    subwords = [tokenizer.encode(text)[0] for text in (" dog", " ice")]
    found = expand(model, params, tokenizer, subwords)
    for word, (second, third) in zip(subwords, found, strict=True):
        begin = [1] if adds_bos else []
        prompt = [*begin, *tokenizer.encode(PREFIX), word]
        for token in (second, third):
            positions = jnp.arange(len(prompt))[None]
            hidden, _ = model.apply({"params": params}, jnp.asarray([prompt]), positions)
            logits = model.apply({"params": params}, hidden[:, -1], method="logits")
            assert int(jnp.argmax(logits)) == token
            prompt.append(int(token))


def test_subwords_follow_a_space_as_in_the_published_text_prompt(smollm2):
    tokenizer = smollm2[2]
    word, bare, lone = (tokenizer.encode(text)[0] for text in (" dog", "dog", "§"))
    assert prompt_ids(tokenizer, [word, bare]).tolist() == [word, word]
    assert tokenizer.encode(f"{PREFIX} dog")[-1] == word
    assert prompt_ids(tokenizer, [lone]).shape == (1,)


def test_ngrams_are_unigrams_then_bigrams_then_trigrams(smollm2):
    tokenizer = smollm2[2]
    san, dog = tokenizer.encode(" San")[0], tokenizer.encode(" dog")[0]
    francisco, bay, house, roof = (
        tokenizer.encode(t)[0] for t in (" Francisco", " Bay", " house", " roof")
    )
    texts, ids = ngram_records(tokenizer, [san, dog], np.array([[francisco, bay], [house, roof]]))
    assert texts == [
        " San",
        " dog",
        " San Francisco",
        " dog house",
        " San Francisco Bay",
        " dog house roof",
    ]
    assert ids[0] == (san,) and ids[-1] == (dog, house, roof)
    assert ngram_records(tokenizer, [san, dog], np.zeros((2, 2), int), ngrams=1)[0] == [
        " San",
        " dog",
    ]
    some = ngram_records(tokenizer, [san, dog], np.array([[francisco, bay]]))[0]
    assert some == [" San", " dog", " San Francisco", " San Francisco Bay"]
