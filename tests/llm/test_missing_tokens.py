"""Ids without a row or a token are never chosen, and logits that are not finite choose nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from v2l_jax.codebook.expand import expand
from v2l_jax.errors import AssetError, DataError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.infilling import fill_in
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.text_tokenizers import check_fits, existing_ids, load_text_tokenizer
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.run.loading import LanguageModel

ROWS = 24
MODEL = Llama(LlamaConfig(ROWS, 16, 16, 1, 1, 1, 16, 64, 1e-6, rotary_frequencies(16, 1e4)))
PIECES = "a b c d e f h i o p t Ġ <s> </s>".split()


def _tokenizer(folder, *added):
    """14 byte-level pieces, ids 0 to 13; `added` are (text, special) from 14 on."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = tokenizers.Tokenizer(
        tokenizers.models.BPE({piece: i for i, piece in enumerate(PIECES)}, [])
    )
    pipeline.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = tokenizers.decoders.ByteLevel()
    pipeline.add_special_tokens(["<s>", "</s>"])
    for text, special in added:
        add = pipeline.add_special_tokens if special else pipeline.add_tokens
        add([text])
    pipeline.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"bos_token_id": 12, "eos_token_id": 13}')
    return load_text_tokenizer(folder)


@pytest.fixture(scope="module")
def params():
    """A model whose likeliest token is always 20, which pads its table, then 4."""
    one = jnp.zeros((1, 1), jnp.int32)
    params = dict(MODEL.init(jax.random.key(0), one, one)["params"])
    params["final_norm"] = jnp.zeros(16).at[0].set(1.0)
    params["embedding"] = jnp.ones((ROWS, 16))
    params["output"] = jnp.zeros((16, ROWS)).at[0, 20].set(9.0).at[0, 4].set(5.0)
    return params


@pytest.fixture(scope="module")
def broken(params):
    return params | {"output": params["output"].at[0, 7].set(jnp.nan)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return _tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_rows_that_pad_the_table_are_never_chosen(params, tokenizer):
    assert existing_ids(tokenizer, ROWS) == list(range(14))
    language = LanguageModel("tiny", MODEL, params, tokenizer)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    assert language.engine(mesh, 256).generate([[1, 2]], 2) == [[4, 4]]
    assert LLMEngine(MODEL, params, token_budget=256).generate([[1, 2]], 2) == [[20, 20]]
    np.testing.assert_array_equal(expand(MODEL, params, tokenizer, [1, 2]), 4)


def test_gaps_of_a_vocabulary_are_no_tokens(tmp_path):
    tokenizer = _tokenizer(tmp_path)
    gapped = (*tokenizer.token_bytes[:3], b"", *tokenizer.token_bytes[4:])
    object.__setattr__(tokenizer, "token_bytes", gapped)
    assert 3 not in existing_ids(tokenizer, ROWS)


def test_tokens_beyond_the_table_are_one_line_with_both_sizes(tmp_path):
    for name, added, rows in (("text", [(" photo", False)], 14), ("end", [], 13), ("all", [], 5)):
        tokenizer = _tokenizer(tmp_path / name, *added)
        sizes = f"{tokenizer.vocab_size} ids, but its embedding table {rows} rows"
        with pytest.raises(AssetError, match=sizes):
            check_fits(tokenizer, rows, "tiny")


def test_a_special_token_beyond_the_table_does_no_harm(tmp_path):
    """[PAD] added after training, which no text contains."""
    tokenizer = _tokenizer(tmp_path, ("[PAD]", True))
    check_fits(tokenizer, 14, "tiny")
    assert max(tokenizer.encode("a[PAD]b")) < 14
    assert existing_ids(tokenizer, 14) == list(range(14))


def test_logits_that_are_not_finite_choose_nothing(params, broken, tokenizer):
    engine = LLMEngine(MODEL, broken, token_budget=256)
    ask = {
        "generate": lambda: engine.generate([[1, 2]], 2),
        "masked": lambda: engine.generate([[1, 2]], 2, vocabulary=[3, 7]),
        "choose": lambda: engine.choose([[1, 2]], [[[3], [7]]]),
        "score": lambda: engine.score_continuations([[1, 2]], [[[3], [4]]]),
        "expand": lambda: expand(MODEL, broken, tokenizer, [1, 2]),
        "fill in": lambda: fill_in(
            MODEL, broken, *map(np.asarray, ([[1]], [[2, 3]], [[True, True]], [3, 7])), batch_size=1
        ),
    }
    for question in ask.values():
        with pytest.raises(DataError, match="not finite"):
            question()
    assert engine.generate([[1, 2]], 2, vocabulary=[3, 4]) == [[4, 4]]


def test_infinite_logits_choose_nothing_either(params):
    infinite = params | {"output": params["output"].at[0, 7].set(jnp.inf)}
    with pytest.raises(DataError, match="not finite"):
        LLMEngine(MODEL, infinite, token_budget=256).generate([[1, 2]], 2)
