"""A GGUF's vocabulary, merges and scores → the `tokenizers` pipeline that splits text as llama.cpp
does.
"""

import enum
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from v2l_jax.errors import AssetError


class TokenType(enum.IntEnum):
    """`tokenizer.ggml.token_type` (llama.cpp's llama_token_type)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_SPECIAL = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.UNUSED)

# How text is cut into words before merging, by `tokenizer.ggml.pre`; the expressions are those of
# the models' own
# tokenizer.json.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = (
    r"|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| "
    r"?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_WORDS = _CONTRACTION + _WORDS.format(digits="{1,3}")
_QWEN2_WORDS = _CONTRACTION + _WORDS.format(digits="")
_GPT2 = ("gpt-2", "gpt2", "olmo")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone")
LLAMA3 = ("llama3", "llama-v3", "llama-bpe", "falcon3")
"""Word splitters of models whose texts begin with a begin token where the file says nothing."""

_LLAMA3_WORDS_MERGED = ("dbrx", "smaug-bpe")
_QWEN2 = ("qwen2", "deepseek-r1-qwen")


def build(
    metadata: Mapping[str, Any],
) -> tuple[tokenizers.Tokenizer, tuple[bytes, ...], frozenset[int], bool]:
    """Builds the tokenizer that a GGUF's metadata describes.

    Returns:
      (pipeline, bytes of each token, ids of special tokens, whether a space is put before the
      text).

    Raises:
      AssetError: a tokenizer model or word splitter that is not known here.
    """
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.tokens"):
        if key not in metadata:
            raise AssetError(
                f"it has no tokenizer ({key} is missing); name one: "
                "--config.llm_options.tokenizer=DIRECTORY"
            )
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata.get("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    special_ids = frozenset(i for i, kind in enumerate(types) if kind in _SPECIAL)
    model = metadata["tokenizer.ggml.model"]
    if model == "gpt2":
        to_bytes, adds_space = byte_level_bytes, False
        if metadata.get("tokenizer.ggml.pre", "default") == "default":
            raise AssetError(
                "it does not say how text is cut into words (tokenizer.ggml.pre is missing or "
                "'default', as in files of before May 2024); take a newer file, or name the "
                "tokenizer: --config.llm_options.tokenizer=DIRECTORY"
            )
        pipeline = _byte_level(
            tokens, metadata["tokenizer.ggml.merges"], metadata["tokenizer.ggml.pre"]
        )
    elif model == "llama":
        to_bytes, adds_space = (
            sentencepiece_bytes,
            bool(metadata.get("tokenizer.ggml.add_space_prefix", True)),
        )
        pipeline = _sentencepiece(tokens, metadata["tokenizer.ggml.scores"], types, adds_space)
    else:
        raise AssetError(f"tokenizer model '{model}' is not supported (gpt2 and llama are)")
    literal = {i for i, kind in enumerate(types) if kind == TokenType.USER_DEFINED}
    pipeline.add_tokens(
        [tokenizers.AddedToken(tokens[i], normalized=False) for i in sorted(literal)]
    )
    token_bytes = tuple(
        token.encode() if i in special_ids or i in literal else to_bytes(token)
        for i, token in enumerate(tokens)
    )
    return pipeline, token_bytes, special_ids, adds_space


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable stand-ins: bytes that print stand for themselves, the others are moved
    above U+0100.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(moved)}


def byte_level_bytes(piece: str) -> bytes:
    """The bytes a byte-level BPE piece stands for ("Ġdog" → b" dog")."""
    table = _byte_of_character()
    if not all(c in table for c in piece):
        return piece.encode()
    return bytes(table[c] for c in piece)


def sentencepiece_bytes(piece: str) -> bytes:
    """The bytes a SentencePiece piece stands for ("▁dog" → b" dog", "<0x0A>" → b"\\n")."""
    byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece)
    return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()


def _byte_level(tokens: Sequence[str], merges: Sequence[str], pre: str) -> tokenizers.Tokenizer:
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    whole_words = pre in LLAMA3  # their tokenizer.json sets ignore_merges
    pipeline = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=whole_words))
    byte_level = functools.partial(pre_tokenizers.ByteLevel, add_prefix_space=False)
    if pre in _GPT2:
        pipeline.pre_tokenizer = byte_level(use_regex=True)
    elif pre in _SINGLE_DIGITS:
        splitter = pre_tokenizers.Digits(individual_digits=True)
        pipeline.pre_tokenizer = pre_tokenizers.Sequence([splitter, byte_level(use_regex=True)])
    elif pre in (*LLAMA3, *_LLAMA3_WORDS_MERGED, *_QWEN2):
        words = tokenizers.Regex(_QWEN2_WORDS if pre in _QWEN2 else _LLAMA3_WORDS)
        splitter = pre_tokenizers.Split(words, behavior="isolated")
        pipeline.pre_tokenizer = pre_tokenizers.Sequence([splitter, byte_level(use_regex=False)])
        if pre in _QWEN2:
            pipeline.normalizer = normalizers.NFC()
    else:
        known = ", ".join((*_GPT2, *_SINGLE_DIGITS, *LLAMA3, *_LLAMA3_WORDS_MERGED, *_QWEN2))
        raise AssetError(
            f"word splitter '{pre}' is not known here ({known} are); load the Hugging Face "
            "directory"
        )
    return pipeline


def _sentencepiece(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], adds_space: bool
) -> tokenizers.Tokenizer:
    """SentencePiece BPE: always merge the pair whose union scores highest; bytes stand in for
    unknown characters.
    """
    vocabulary = {token: i for i, token in enumerate(tokens)}
    mergeable = {
        t: i for t, i in vocabulary.items() if types[i] in (TokenType.NORMAL, TokenType.UNUSED)
    }
    ranked = []
    for token, i in mergeable.items():
        halves = [(token[:k], token[k:]) for k in range(1, len(token))]
        pairs = [
            (left, right) for left, right in halves if left in mergeable and right in mergeable
        ]
        pairs.sort(key=lambda pair: (mergeable[pair[0]], mergeable[pair[1]]))
        ranked.extend((-scores[i], left, right) for left, right in pairs)
    ranked.sort(key=lambda item: item[0])
    unknown = next((t for i, t in enumerate(tokens) if types[i] == TokenType.UNKNOWN), None)
    merges = [(left, right) for _, left, right in ranked]
    pipeline = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    steps = [normalizers.Prepend("▁")] if adds_space else []
    pipeline.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    return pipeline
