"""Answers are tokenized as they stand in the prompt: what the engine is asked is compared with
Hugging Face's own tokenizers on the whole text.
"""

import numpy as np
import pytest
import tokenizers

from tests.llama2_tokenizer import write_llama2_tokenizer
from v2l_jax.data.episodes import read_class_names
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.representations.base import Ids, Text
from v2l_jax.tasks.harness.answers import LikeliestName, MaskedNames, SpelledNames
from v2l_jax.tasks.harness.prompts import encode, input_part

ODD = (
    "dog", "Dog", "dogs", "hot dog", "hot dog stand", "São Paulo", "crème brûlée", "T-shirt",
    "bo tree", "7 up", "'hood", "no", "not", "İstanbul", "東京", "C++", "Ångström", "🐶", "a", "ab",
)  # fmt: skip


@pytest.fixture(scope="module")
def names(asset):
    """200 names: accents, hyphens, spaces, capitals, and names that begin others."""
    known = sorted(set(read_class_names(asset("imagenet-lemmas")).values()) - set(ODD))
    some = np.random.default_rng(0).permutation(len(known))[: 200 - len(ODD)]
    return (*ODD, *(known[i] for i in some))


@pytest.fixture(scope="module", params=["llama-2", "smollm2", "qwen3"])
def family(request, asset, tmp_path_factory):
    """A tokenizer here, and Hugging Face's on the same files, which begins texts as the model is
    used to.
    """
    if request.param == "smollm2":  # a GGUF: the pipeline of its vocabulary and published splitter
        path = asset("smollm2-135m-instruct")
        ours = load_text_tokenizer(path)
        return ours, ours.backend
    if request.param == "qwen3":
        folder = asset("qwen3-tokenizer")
    else:
        folder = write_llama2_tokenizer(
            asset("llama-2-vocabulary"), tmp_path_factory.mktemp("llama") / "2"
        )
    ours = load_text_tokenizer(folder)
    peer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return ours, peer


class Recorder(LLMEngine):
    """Keeps what it is asked, and answers with the first of everything."""

    def __init__(self):
        pass

    def score_continuations(self, prompts, candidates, description):
        self.prompts, self.candidates = prompts, candidates
        return [np.zeros(len(some)) for some in candidates]

    def choose(self, prompts, candidates, end_id, description):
        self.prompts, self.candidates = prompts, candidates
        return np.zeros(len(prompts), int)

    def generate(self, prompts, max_new_tokens, *, allowed, description):
        self.prompts, self.allowed = prompts, allowed
        return [[steps[0][0]] for steps in allowed]


PROMPT = input_part((Text("puppies"), Text(" fur")))
TEXT = "###\nInput: < puppies fur >\nOutput:"


def test_ids_of_prompt_and_answer_together_are_those_that_are_asked(family, names):
    ours, peer = family
    recorder = Recorder()
    for end, how in (
        ("", LikeliestName([names])),
        ("\n", LikeliestName([names], end="\n")),
        ("", SpelledNames([names])),
    ):
        how.answer(recorder, ours, [PROMPT], "")
        assert len(recorder.candidates[0]) == 200
        for name, ids in zip(names, recorder.candidates[0], strict=True):
            whole = peer.encode(f"{TEXT} {name}{end}").ids
            assert [*recorder.prompts[0], *ids] == whole, name
        assert max(map(len, recorder.candidates[0])) < how.longest(ours)[0] <= 64


def test_the_mask_holds_the_tokens_of_the_names_where_they_stand(family, names):
    ours, peer = family
    recorder, some = Recorder(), names[:10]
    MaskedNames([some]).answer(recorder, ours, [PROMPT], "")
    start = len(peer.encode(TEXT).ids)
    spelled = [[*peer.encode(f"{TEXT} {name}").ids[start:], ours.eos_id] for name in some]
    longest = max(map(len, spelled)) - 1  # after the longest name only the end is left
    steps = [{ids[i] for ids in spelled if len(ids) > i} for i in range(longest)]
    assert [set(step) for step in recorder.allowed[0]] == steps


def test_text_after_given_tokens_begins_without_a_space_of_its_own(family):
    ours, peer = family
    whole = peer.encode(TEXT).ids
    begun = len(ours.encode_prompt("###\nInput: <"))
    words = ours.encode_inside(" puppies fur")
    assert whole[begun : begun + len(words)] == words
    parts = (Text("###\nInput: <"), Ids(tuple(words)), Text(" >\nOutput:"))
    assert encode(ours, parts) == whole


def test_llama_2_has_its_own_ids(asset, tmp_path):
    ours = load_text_tokenizer(write_llama2_tokenizer(asset("llama-2-vocabulary"), tmp_path))
    assert (ours.vocab_size, ours.bos_id, ours.eos_id, ours.adds_bos) == (32_000, 1, 2, True)
    assert ours.encode_inside(" dog") == [11203] and ours.encode(" dog") == [29871, 11203]
    assert ours.encode_prompt("Hello world") == [1, 15043, 3186]
    assert ours.decode([11203]) == "dog"
