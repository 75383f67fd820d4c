"""The published code's prompts, mask and expansion in the tokens of LLaMA-2: ids written out by
hand from its rules and its vocabulary.
"""

import pathlib
import types

import numpy as np
import pytest

from tests.llama2_tokenizer import write_llama2_tokenizer
from v2l_jax import experiment
from v2l_jax.codebook.expand import published_records
from v2l_jax.data.episodes import Episode, Example
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import codebook
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.representations.v2l_words import plain_texts
from v2l_jax.run import loading
from v2l_jax.tasks.denoising import prompt_pieces
from v2l_jax.tasks.few_shot import Scoring, answering, hits, make_prompts
from v2l_jax.tasks.harness.prompts import encode
from v2l_jax.tasks.harness.published_prompts import instruction, name_steps, underscored

ROOT = pathlib.Path(__file__).parents[3]
# ▁For each of the following input output pairs , ▁output ▁is ▁one ▁of ▁['
STATED = [1152, 1269, 310, 278, 1494, 1881, 1962, 11000, 29892, 1962, 338, 697, 310, 6024]
SHARK = [7979, 271, 29918, 10921, 29918, 845, 935]  # gre at _ white _ sh ark, after ['
BEFORE = [835, 13, 4290, 29901, 529, 29871]  # ▁### \n Input : ▁< ▁
AFTER = [29871, 1405, 13, 6466, 29901, 29871]  # ▁ ▁> \n Output : ▁
BEGINS_SHARK, KITE = [2107, 29918, 10921, 29918, 845, 935], [413, 568]  # ▁great …; ▁k ite
DOGHOUSE, FUR = [11203, 8697], [3261]  # ▁dog house; ▁fur
NAMES = (underscored("great white shark"), underscored("kite"))
EPISODE = Episode((Example(0, NAMES[0]), Example(1, NAMES[1])), Example(1, NAMES[1]), NAMES)
WRITTEN = [plain_texts(["dog", "house"]), plain_texts(["fur"])]


@pytest.fixture(scope="module")
def tokenizer(asset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama-2")
    return load_text_tokenizer(write_llama2_tokenizer(asset("llama-2-vocabulary"), folder / "2"))


def test_prompts_are_pieces_encoded_one_by_one(tokenizer):
    shots = [*BEFORE, *DOGHOUSE, *AFTER, *BEGINS_SHARK, *BEFORE, *FUR, *AFTER, *KITE]
    query = [*BEFORE, *FUR, *AFTER]
    # ' ▁or ▁[' k ite '] \n
    stated = [1, *STATED, *SHARK, 29915, 470, 6024, 29895, 568, 2033, 13]
    for scoring, expected in (
        (Scoring("greedy", False, published=True), [*stated, *shots, *query]),
        (Scoring("greedy", False, repetitions=2, published=True), [*stated, *shots * 3, *query]),
        (Scoring("greedy", False, induction=False, published=True), [1, *shots, *query]),
    ):
        (prompt,) = make_prompts([EPISODE], WRITTEN, scoring, tokenizer)
        assert encode(tokenizer, prompt.whole) == expected


def test_the_instruction_opens_a_bracket_before_each_name():
    assert instruction(("b", "a")).endswith("output is one of ['a' or ['b']\n")
    assert instruction("edcba").endswith("is one of ['a' or ['b' or ['c' or ['d' or ['e']\n")


def test_the_mask_has_names_encoded_alone_with_their_ends(tokenizer):
    steps = name_steps(tokenizer, NAMES)
    columns = ({2107, 413}, {29918, 568}, {10921, 2}, {29918}, {845}, {935}, {2})
    assert [set(step) for step in steps] == list(columns)
    assert len(name_steps(tokenizer, ["a" * 200])) == 16

    class Writer(LLMEngine):
        """Writes the name of the query's class, and keeps its mask."""

        def __init__(self):
            pass

        def generate(self, prompts, max_new_tokens, *, allowed, description):
            self.allowed = allowed
            return [[*KITE, 2, 29918]]

    writer, scoring = Writer(), Scoring("greedy", False, published=True)
    prompts = make_prompts([EPISODE], WRITTEN, scoring, tokenizer)
    how = answering([EPISODE], prompts, scoring)
    answers = how.answer(writer, tokenizer, [prompt.whole for prompt in prompts], "")
    assert answers == ["kite_"] and hits(answers, [EPISODE], scoring).all()
    assert [list(step) for step in writer.allowed[0]] == steps


def test_denoising_pieces_are_encoded_alone(tokenizer):
    assert list(prompt_pieces(tokenizer, 2, published=True).input) == BEFORE
    assert list(prompt_pieces(tokenizer, 2, published=True).output) == AFTER
    assert list(prompt_pieces(tokenizer, 2).output) == AFTER[1:]  # where it stands: one space


def test_expansion_decodes_alone_and_joins_without_a_space(tokenizer):
    class Writer(LLMEngine):
        """Writes "▁house" after a lone word, then "ing"."""

        def __init__(self):
            self.model = types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=32_000))
            self.asked, self.vocabulary = [], None

        def generate(self, prompts, max_new_tokens, *, vocabulary, description):
            self.asked.append([list(prompt) for prompt in prompts])
            self.vocabulary = vocabulary
            return [[{1: 3699, 2: 292}[len(self.asked)]] for _ in prompts]

    writer = Writer()
    texts, ids = published_records(writer, tokenizer, [11203, 1, 13])  # ▁dog, <s>, \n
    a_photo_of = [1, 263, 15373, 310]
    assert writer.asked[0] == [[*a_photo_of, 11203], [*a_photo_of, 29871], [*a_photo_of, 29871, 13]]
    # doghouse is encoded anew: ▁dog house
    assert writer.asked[1][0] == [*a_photo_of, *DOGHOUSE] and len(writer.vocabulary) == 32_000
    assert texts[0::3] == ["dog", "doghouse", "doghouseing"]
    assert texts[1::3] == ["", "house", "houseing"] and texts[2] == "\n"
    assert ids[0::3] == [(11203,), (11203, 3699), (11203, 3699, 292)]


def test_every_subword_is_a_word(tokenizer, monkeypatch):
    config = experiment.default()
    config.published, config.codebook.ngrams = True, 3

    class Silent(LLMEngine):
        """Always goes on with the first token."""

        def __init__(self):
            self.model = types.SimpleNamespace(config=types.SimpleNamespace(vocab_size=32_000))

        def generate(self, prompts, max_new_tokens, **rules):
            return [[0]] * len(prompts)

    model = types.SimpleNamespace(tokenizer=tokenizer, engine=lambda *_: Silent())
    monkeypatch.setattr(loading, "language_model", lambda config: model)
    texts, ids, _ = codebook._expanded(config, pathlib.Path("unused"), together=False)
    assert len(texts) == 96_000 and [i for (i,) in ids[:32_000]] == list(range(32_000))
    assert texts[11203] == "dog" and texts[29871] == "" and texts[13] == "\n"
    kept = codebook.subwords(tokenizer, 0, False)
    assert len(kept) < 32_000 and np.isin([0, 1, 2, 13, 29871], kept).sum() == 0


def test_its_config_is_the_published_code():
    config = experiment.load(ROOT / "configs" / "published_words.py")
    experiment.check(config)
    assert config.published and not config.codebook.vocabulary_limit
    assert not config.codebook.expand_limit and not config.codebook.local_limit


@pytest.mark.parametrize(
    "path, value",
    [
        ("codebook.merge_spellings", True),
        ("evaluate.few_shot.calibrate", True),
        ("evaluate.few_shot.rule", ("greedy", "likelihood")),
        ("representation.v2l_words.single_words", True),
    ],
)
def test_options_that_depart_from_the_published_code_are_refused(path, value):
    config = experiment.default()
    config.published = True
    experiment.check(config)
    section, _, name = path.rpartition(".")
    where = config
    for part in section.split("."):
        where = where[part]
    where[name] = value
    with pytest.raises(ConfigError, match=f"config.published is True, so config.{path} must be"):
        experiment.check(config)
    config.published = False
    experiment.check(config)
