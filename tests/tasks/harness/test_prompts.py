"""Segments become the token ids of the published text."""

import numpy as np
import pytest

from v2l_jax.errors import DataError
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.representations.base import Ids, Slots, Text
from v2l_jax.representations.v2l_words import word_texts
from v2l_jax.tasks.harness.prompts import answer_text, encode, example_part, input_part


@pytest.fixture(scope="module")
def tokenizer(asset):
    return load_text_tokenizer(asset("smollm2-135m-instruct"))


def test_neighbouring_texts_are_split_as_one(tokenizer):
    prompt = (
        *example_part(word_texts([" pup", "pies", " dog"]), "dog"),
        *input_part(word_texts([" kit", "ten"])),
    )
    text = "###\nInput: < puppies dog >\nOutput: dog\n###\nInput: < kitten >\nOutput:"
    assert encode(tokenizer, prompt) == tokenizer.encode_prompt(text)
    assert encode(tokenizer, (*prompt, Text(answer_text("cat")))) == tokenizer.encode_prompt(
        text + " cat"
    )


def test_ids_are_left_as_they_are(tokenizer):
    before, after = tokenizer.encode_prompt("###\nInput: < "), tokenizer.encode(" >\nOutput:")
    assert encode(tokenizer, input_part((Ids((5, 7)), Ids((5,))))) == [*before, 5, 7, 5, *after]
    begin = [tokenizer.bos_id] if tokenizer.adds_bos else []
    assert encode(tokenizer, (Ids((9,)), Text("a"))) == [*begin, 9, *tokenizer.encode("a")]


def test_vectors_are_refused(tokenizer):
    with pytest.raises(DataError, match="token ids, and the representation writes vectors"):
        encode(tokenizer, input_part((Slots(np.zeros((2, 3))),)))
