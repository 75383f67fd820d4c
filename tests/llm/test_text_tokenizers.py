"""Tokenizers, against transformers and plain-Python merging."""

import dataclasses
import json

import gguf
import numpy as np
import pytest
import regex
import tokenizers

from v2l_jax.errors import AssetError
from v2l_jax.formats.gguf_files import read_gguf
from v2l_jax.llm import text_tokenizers

TEXTS = [
    "a photo of a dog",
    "Hello  world,   it's\n\n\tDON'T stop   ",
    "In 1999 there were 12345 ½ items, ²³ and Ⅷ.",
    " leading space",
    "naïve café — 日本語のテキスト 🐶🏳️‍🌈",
    "def f(x):\r\n    return x**2  # <|im_end|> <s> </s>",
    "'tis we'll they'RE I'D",
    "\u00a0\u2003mixed\u200bspaces \u0301combining",
    "",
]


@pytest.fixture(scope="session")
def smollm(asset):
    return text_tokenizers.load_text_tokenizer(asset("smollm2-135m-instruct"))


@pytest.fixture(scope="session")
def smollm_metadata(asset):
    return read_gguf(asset("smollm2-135m-instruct")).metadata


def merge_lowest_rank(word, ranks):
    """Byte-pair encoding as Sennrich et al. (2016) write it: merge the lowest-ranked pair until
    none is left.
    """
    while len(word) > 1:
        rank, i = min(
            (ranks.get((a, b), 1 << 60), i) for i, (a, b) in enumerate(zip(word, word[1:]))
        )
        if rank == 1 << 60:
            break
        word = [*word[:i], word[i] + word[i + 1], *word[i + 2 :]]
    return word


def byte_characters():
    """GPT-2's bytes_to_unicode."""
    keep = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    extra = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(extra)) for b in range(256)]


def plain_byte_level_encode(text, words, metadata):
    ids = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    ranks = {tuple(m.split(" ")): i for i, m in enumerate(metadata["tokenizer.ggml.merges"])}
    table, out = byte_characters(), []
    for word in words(text):
        out += [ids[piece] for piece in merge_lowest_rank([table[b] for b in word.encode()], ranks)]
    return out


def smollm_words(text):
    """Single digits first, then GPT-2's expression on what lies between."""
    gpt2 = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )
    return [w for part in regex.findall(r"\p{N}|\P{N}+", text) for w in gpt2.findall(part)]


def test_smollm_round_trip(smollm):
    every_plane = "".join(
        chr(c) for c in [*range(0x20, 0x500), *range(0x2000, 0x2400), *range(0x1F300, 0x1F700)]
    )
    for text in [*TEXTS, every_plane]:
        assert smollm.decode(smollm.encode(text)) == text


def test_smollm_matches_plain_merging(smollm, smollm_metadata):
    for text in TEXTS:
        assert smollm.encode(text) == plain_byte_level_encode(
            text, smollm_words, smollm_metadata
        ), text


def test_smollm_facts(smollm):
    assert [smollm.token_text(i) for i in smollm.encode("a photo of a dog")] == [
        "a",
        " photo",
        " of",
        " a",
        " dog",
    ]
    assert [smollm.token_text(i) for i in smollm.encode("2024")] == ["2", "0", "2", "4"]
    assert smollm.vocab_size == len(smollm.token_texts()) == 49152
    assert (
        smollm.token_text(smollm.eos_id) == "<|im_end|>"
        and smollm.token_text(smollm.bos_id) == "<|im_start|>"
    )
    assert {smollm.eos_id, smollm.bos_id} <= smollm.special_ids and len(smollm.special_ids) == 17
    assert smollm.special_ids.isdisjoint(smollm.encode("<|im_start|>user<|im_end|>"))
    assert smollm.decode([smollm.bos_id, *smollm.encode(" dog"), smollm.eos_id]) == " dog"


def test_characters_split_over_tokens_join_again(smollm):
    ids = smollm.encode("🐶")
    assert len(ids) > 1 and smollm.decode(ids) == "🐶"
    assert smollm.decode(ids[:1]) == "\ufffd" == smollm.token_text(ids[0])


def test_directory_of_the_same_vocabulary_agrees(smollm, smollm_metadata, tmp_path):
    """The same vocabulary saved by transformers: same ids, same fingerprint, also without
    tokenizer.json.
    """
    transformers = pytest.importorskip("transformers")
    tokens = smollm_metadata["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in smollm_metadata["tokenizer.ggml.merges"]]
    peer = transformers.GPT2Tokenizer(
        vocab={t: i for i, t in enumerate(tokens)},
        merges=merges,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        extra_special_tokens=tokens[:17],
    )
    digits = peer.backend_tokenizer
    import tokenizers

    digits.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(individual_digits=True), digits.pre_tokenizer]
    )
    peer.save_pretrained(tmp_path)
    ours = text_tokenizers.load_text_tokenizer(tmp_path)
    assert ours.fingerprint == smollm.fingerprint
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (
        smollm.bos_id,
        smollm.eos_id,
        smollm.vocab_size,
    )
    assert ours.special_ids == smollm.special_ids
    for text in TEXTS:
        assert ours.encode(text) == smollm.encode(text)
        if "<|" not in text:
            assert ours.encode(text) == peer(text, add_special_tokens=False)["input_ids"]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<|im_end|>"}})
    )
    assert text_tokenizers.load_text_tokenizer(tmp_path / "tokenizer.json").bos_id is None


def write_vocabulary(path, model, tokens, types, **fields):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if "scores" in fields:
        writer.add_token_scores(fields["scores"])
    if "merges" in fields:
        writer.add_token_merges(fields["merges"])
    if "pre" in fields:
        writer.add_tokenizer_pre(fields["pre"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def byte_level_vocabulary(corpus, count):
    """A small byte-level vocabulary in which real words merge."""
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator([corpus], vocab_size=count, min_frequency=1)
    state = json.loads(trained.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", "<tool>"] + [
        t for t, _ in sorted(state["vocab"].items(), key=lambda x: x[1])
    ]
    return tokens, [m if isinstance(m, str) else " ".join(m) for m in state["merges"]]


WORDS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "dbrx": r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@pytest.mark.parametrize("pre", sorted(WORDS))
def test_word_splitters(tmp_path, pre):
    """Word expressions as llama.cpp writes them."""
    corpus = " ".join(TEXTS) * 3 + " 123 1234 12345 1999 " * 5
    tokens, merges = byte_level_vocabulary(corpus, 600)
    types = [2, 3, 3, 4] + [1] * (len(tokens) - 4)
    path = write_vocabulary(tmp_path / "t.gguf", "gpt2", tokens, types, merges=merges, pre=pre)
    ours = text_tokenizers.load_text_tokenizer(path)
    metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges}
    for text in TEXTS:
        expected = plain_byte_level_encode(text, regex.compile(WORDS[pre]).findall, metadata)
        assert ours.encode(text) == expected, text
        assert ours.decode(expected) == text
    assert ours.encode("a<tool>b")[1:-1] == [3], "user-defined tokens are recognised in text"
    assert ours.decode([3]) == "<tool>"


def merge_highest_score(text, scores):
    """SentencePiece's algorithm: join the neighbours whose union scores highest, leftmost first."""
    pieces = list(text)
    while True:
        found = [
            (-scores[a + b], i)
            for i, (a, b) in enumerate(zip(pieces, pieces[1:]))
            if a + b in scores
        ]
        if not found:
            return pieces
        i = min(found)[1]
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]


def test_sentencepiece_vocabulary(tmp_path):
    """The LLaMA 1/2 kind: scores instead of merges, bytes for unknown characters."""
    rng = np.random.default_rng(0)
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    pieces = list("▁abcdog")
    while len(pieces) < 120:
        union = "".join(rng.choice(pieces, 2))
        if union not in pieces and len(union) < 9:
            pieces.append(union)
    merged = pieces[7:]
    scores = [0.0] * 259 + [-1e4] * 7 + [-float(i) for i in range(len(merged))]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *pieces]
    types = [2, 3, 3] + [6] * 256 + [1] * len(pieces)
    ours = text_tokenizers.load_text_tokenizer(
        write_vocabulary(tmp_path / "t.gguf", "llama", tokens, types, scores=scores)
    )
    ids = {token: i for i, token in enumerate(tokens)}
    known = {token: scores[ids[token]] for token in pieces}
    for _ in range(200):
        text = "".join(rng.choice(list(" abcdogé\n"), rng.integers(1, 30)))
        expected = []
        for piece in merge_highest_score("▁" + text.replace(" ", "▁"), known):
            expected += (
                [ids[piece]] if piece in ids else [ids[f"<0x{b:02X}>"] for b in piece.encode()]
            )
        assert ours.encode(text) == expected, text
        assert ours.decode(expected) == text
    assert ours.token_text(ids["▁"]) == " " and ours.token_text(ids["<0x0A>"]) == "\n"


@pytest.mark.parametrize(
    "model, pre, message",
    [
        ("t5", "default", "t5"),
        ("gpt2", "unheard-of", "unheard-of"),
        ("gpt2", "default", "tokenizer.ggml.pre is missing or 'default'"),
    ],
)
def test_unknown_tokenizers_are_named(tmp_path, model, pre, message):
    path = write_vocabulary(
        tmp_path / "t.gguf", model, ["a", "b", "ab"], [1, 1, 1], merges=["a b"], pre=pre
    )
    with pytest.raises(AssetError, match=message):
        text_tokenizers.load_text_tokenizer(path)


def test_nothing_there_or_broken(tmp_path):
    with pytest.raises(AssetError, match="no tokenizer"):
        text_tokenizers.load_text_tokenizer(tmp_path / "absent")
    with pytest.raises(AssetError, match="tokenizer.json"):
        text_tokenizers.load_text_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(AssetError, match="no readable tokenizer"):
        text_tokenizers.load_text_tokenizer(tmp_path)
    path = write_vocabulary(
        tmp_path / "t.gguf", "gpt2", ["a", "b", "c"], [1, 1, 1], merges=["a z"], pre="gpt-2"
    )
    with pytest.raises(AssetError, match="inconsistent"):
        text_tokenizers.load_text_tokenizer(path)


def test_a_sentence_encoders_vocabulary_is_refused(asset):
    with pytest.raises(AssetError, match="not the tokenizer of an LLM"):
        text_tokenizers.load_text_tokenizer(asset("minilm-l6-v2"))


def test_prompts_begin_with_bos_only_where_the_model_expects_it(asset):
    smollm2 = text_tokenizers.load_text_tokenizer(asset("smollm2-135m-instruct"))
    assert not smollm2.adds_bos and smollm2.encode_prompt("a dog") == smollm2.encode("a dog")
    llama = dataclasses.replace(smollm2, adds_bos=True, bos_id=1)
    assert llama.encode_prompt("a dog") == [1, *smollm2.encode("a dog")]


@pytest.mark.parametrize(
    "vocabulary, merges",
    [
        ({"</s>": 0, "a": 1, "b": 2, "ab": 3}, [["a", "c"]]),
        ({"</s>": 0, "a": 1, "b": 2, "ab": 3}, [["abcdef", "a"]]),
        ({"</s>": 0, "a": 1 << 30}, []),
        ({}, []),
    ],
    ids=["unknown merge", "long merge", "huge id", "empty"],
)
def test_a_damaged_vocabulary_is_one_line(tmp_path, vocabulary, merges):
    """Found by `make fuzz`: bare exceptions, panics and a tuple of a thousand million entries."""
    pipeline = {"version": "1.0", "added_tokens": [], "decoder": {"type": "ByteLevel"}}
    pipeline["decoder"] |= {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    pipeline["model"] = {"type": "BPE", "vocab": vocabulary, "merges": merges}
    (tmp_path / "tokenizer.json").write_text(json.dumps(pipeline))
    (tmp_path / "config.json").write_text('{"eos_token_id": 0}')
    with pytest.raises(AssetError) as caught:
        text_tokenizers.load_text_tokenizer(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("pre, adds", [("llama-v3", True), ("llama3", True), ("qwen2", False)])
def test_a_begin_token_where_llama_cpp_adds_one_though_the_file_is_silent(tmp_path, pre, adds):
    vocabulary = (["a", "b", "ab", "</s>"], [1, 1, 1, 3])
    path = write_vocabulary(tmp_path / "t.gguf", "gpt2", *vocabulary, merges=["a b"], pre=pre)
    assert text_tokenizers.load_text_tokenizer(path).adds_bos == adds


@pytest.mark.parametrize("end", [7, -1, "0", True, 1.0], ids=str)
def test_an_end_token_outside_the_vocabulary_is_one_line(tmp_path, end):
    pipeline = tokenizers.Tokenizer(tokenizers.models.BPE({"</s>": 0, "a": 1}, []))
    pipeline.decoder = tokenizers.decoders.ByteLevel()
    pipeline.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    with pytest.raises(AssetError, match="the end-of-sequence token has the id"):
        text_tokenizers.load_text_tokenizer(tmp_path)
