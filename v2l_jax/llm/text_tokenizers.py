"""LLM tokenizers: a GGUF's own vocabulary, or a Hugging Face directory → one small interface."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from absl import logging

from v2l_jax.errors import AssetError
from v2l_jax.formats.gguf_files import gguf_in
from v2l_jax.formats.text_files import read_json
from v2l_jax.formats.tokenizer_files import tokenizer_errors
from v2l_jax.llm import gguf_tokenizers, sentencepiece_files

_MOST_IDS = 1 << 24  # the largest vocabularies have 2^18 tokens


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
    """Text ⇄ token ids of one LLM. Plain text only: special tokens are neither produced nor
    recognised by `encode`.

    Attributes:
      backend: the `tokenizers` pipeline that splits text.
      token_bytes: id → the UTF-8 bytes that token stands for (possibly a fragment of a character).
      special_ids: control tokens (begin, end, chat marks, unused); they decode to nothing.
      bos_id: the token that begins a sequence, if the model has one.
      eos_id: the token that ends a sequence.
      adds_bos: whether the model was trained on sequences that begin with `bos_id`.
      adds_space: whether `encode` puts a space before the text and `decode` takes it away (LLaMA
        1/2, Mistral).
      fingerprint: identifies the vocabulary: SHA-256 over every token's bytes in order of id, 16
        hex digits.
      inside: `backend` without the space before the text, where there is one.
    """

    backend: tokenizers.Tokenizer
    token_bytes: tuple[bytes, ...]
    special_ids: frozenset[int]
    bos_id: int | None
    eos_id: int
    adds_bos: bool
    adds_space: bool
    fingerprint: str
    inside: tokenizers.Tokenizer | None = None

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens and gaps included."""
        return len(self.token_bytes)

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a text that begins a sequence: `encode`, after the begin token where the
        model expects one.
        """
        return ([self.bos_id] if self.adds_bos else []) + self.encode(text)

    def encode(self, text: str) -> list[int]:
        """Splits text into token ids; no special token is added or recognised.

        Characters for which the vocabulary has neither a token nor bytes (SmolLM2: six control
        characters) get lost.
        """
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_inside(self, text: str) -> list[int]:
        """Splits a text that other tokens stand before: `encode` without the space that some
        tokenizers put before a text (LLaMA 1/2, Mistral: `encode(" dog")` is "▁", "▁dog").

        These are the ids that the text has within a longer one, where it begins with a space.
        """
        if self.inside is None:
            return self.encode(text)
        return self.inside.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Joins the tokens' bytes into text; fragments that form no character become U+FFFD,
        special tokens nothing.
        """
        joined = b"".join(self.token_bytes[i] for i in ids if i not in self.special_ids)
        text = joined.decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.adds_space else text

    def token_text(self, token_id: int) -> str:
        """One token's text with its leading space (" dog"); a special token's name
        ("<|im_end|>").
        """
        return self.token_bytes[token_id].decode("utf-8", errors="replace")

    def token_texts(self) -> list[str]:
        """`token_text` of every id, in order."""
        return [self.token_text(i) for i in range(self.vocab_size)]


def existing_ids(tokenizer: TextTokenizer, rows: int) -> list[int]:
    """The ids that stand for a token and have a row in an embedding table of `rows` rows; a table
    may be padded, and a vocabulary may have gaps.
    """
    known = enumerate(tokenizer.token_bytes[:rows])
    return [i for i, token in known if token or i in tokenizer.special_ids]


def check_fits(tokenizer: TextTokenizer, rows: int, where: str) -> None:
    """Checks that every token which a text or the engine can need has a row in the embedding table.

    Args:
      tokenizer: the model's.
      rows: of its embedding table.
      where: what to call the model in an error.

    Raises:
      AssetError: tokens lie beyond the table.
    """
    ends = {i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None}
    beyond = [
        i
        for i in range(rows, tokenizer.vocab_size)
        if tokenizer.token_bytes[i] and (i not in tokenizer.special_ids or i in ends)
    ]
    if beyond:
        raise AssetError(
            f"{where}: its tokenizer has {tokenizer.vocab_size} ids, but its embedding table "
            f"{rows} rows; {len(beyond)} tokens, such as {tokenizer.token_text(beyond[0])!r}, have "
            "none: give the tokenizer that belongs to these weights, or the weights that were "
            "resized with it"
        )
    if tokenizer.vocab_size != rows:
        logging.info(
            "%s: %d ids in the tokenizer, %d rows in the embedding table; those without the other "
            "are never chosen",
            where,
            tokenizer.vocab_size,
            rows,
        )


def load_text_tokenizer(path: str | pathlib.Path) -> TextTokenizer:
    """Loads the tokenizer of a GGUF file, or of a Hugging Face directory (tokenizer.json, or what
    transformers reads).

    A directory may also hold SentencePiece's tokenizer.model, or one GGUF file, alone.

    Raises:
      AssetError: no tokenizer there, or one of a kind that cannot be reproduced exactly.
    """
    path = pathlib.Path(path)
    if path.is_file() and path.suffix == ".gguf":
        return _from_gguf(path)
    if path.is_file() and path.name == "tokenizer.json":
        path = path.parent
    if path.is_dir() and not (path / "tokenizer.json").is_file():
        found = gguf_in(path)
        if found is not None and not (path / "config.json").is_file():
            return _from_gguf(found)
    if not path.is_dir():
        raise AssetError(
            f"{path}: no tokenizer there; give a .gguf file or a directory with tokenizer.json"
        )
    if not (path / "tokenizer.json").is_file() and (path / sentencepiece_files.FILE).is_file():
        return _from_sentencepiece(path / sentencepiece_files.FILE)
    return _from_directory(path)


def _from_gguf(path: pathlib.Path) -> TextTokenizer:
    from v2l_jax.formats.gguf_files import read_gguf

    return _from_metadata(path, read_gguf(path).metadata)


def _from_sentencepiece(path: pathlib.Path) -> TextTokenizer:
    """A tokenizer.model without tokenizer.json; what lies beside it names the ends."""
    metadata = sentencepiece_files.read_sentencepiece(path)
    pieces = dict(enumerate(metadata["tokenizer.ggml.tokens"]))
    if len(_json(path.parent / "added_tokens.json").keys() - set(pieces.values())):
        raise AssetError(
            f"{path} has tokens beside it that it lacks (added_tokens.json); give a directory with "
            "tokenizer.json, which transformers' save_pretrained writes"
        )
    for kind in ("bos", "eos"):
        named = _named_token(path.parent, f"{kind}_token", pieces)
        if named is not None:
            metadata[f"tokenizer.ggml.{kind}_token_id"] = named
    metadata["tokenizer.ggml.add_bos_token"] = _json(path.parent / "tokenizer_config.json").get(
        "add_bos_token", True
    )
    return _from_metadata(path, metadata)


def _from_metadata(path: pathlib.Path, metadata: Mapping[str, Any]) -> TextTokenizer:
    try:
        backend, token_bytes, special_ids, adds_space = gguf_tokenizers.build(metadata)
    except AssetError as error:
        raise AssetError(f"{path}: {error}") from error
    except Exception as error:  # `tokenizers` raises bare Exception
        raise AssetError(
            f"{path}: its tokenizer metadata is inconsistent ({error!r}); download it again"
        ) from error
    bos, eos = (
        metadata.get("tokenizer.ggml.bos_token_id"),
        metadata.get("tokenizer.ggml.eos_token_id"),
    )
    begins_by_default = (
        metadata["tokenizer.ggml.model"] == "llama"
        or metadata.get("tokenizer.ggml.pre") in gguf_tokenizers.LLAMA3
    )
    adds_bos = bos is not None and bool(
        metadata.get("tokenizer.ggml.add_bos_token", begins_by_default)
    )
    return _assemble(path, backend, token_bytes, special_ids, bos, eos, adds_bos, adds_space)


def _from_directory(folder: pathlib.Path) -> TextTokenizer:
    with tokenizer_errors(folder, AssetError):
        return _read_directory(folder)


def _read_directory(folder: pathlib.Path) -> TextTokenizer:
    backend = _hugging_face_backend(folder)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # "<|im_end|>" typed in a text is text
    pieces = {i: piece for piece, i in backend.get_vocab(with_added_tokens=True).items()}
    if max(pieces, default=0) > _MOST_IDS:
        raise AssetError(f"{folder}: a token has the id {max(pieces):,}; the vocabulary is damaged")
    pipeline = json.loads(backend.to_str())
    added = {token["id"]: token for token in pipeline.get("added_tokens", [])}
    decoder = json.dumps(pipeline.get("decoder"))
    if '"ByteLevel"' in decoder:
        to_bytes = gguf_tokenizers.byte_level_bytes
    elif '"ByteFallback"' in decoder or '"Metaspace"' in decoder:
        to_bytes = gguf_tokenizers.sentencepiece_bytes
    else:
        raise AssetError(
            f"{folder}: not the tokenizer of an LLM (neither byte-level nor SentencePiece)"
        )
    token_bytes = tuple(
        added[i]["content"].encode() if i in added else to_bytes(pieces.get(i, ""))
        for i in range(max(pieces) + 1)
    )
    special_ids = frozenset(i for i, token in added.items() if token["special"])
    adds_space = '"Strip"' in decoder or ('"Metaspace"' in decoder and '"never"' not in decoder)
    bos, eos = (_named_token(folder, kind, pieces) for kind in ("bos_token", "eos_token"))
    adds_bos = bos is not None and backend.encode("a").ids[:1] == [bos]
    return _assemble(folder, backend, token_bytes, special_ids, bos, eos, adds_bos, adds_space)


def _hugging_face_backend(folder: pathlib.Path) -> tokenizers.Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    import transformers

    return transformers.AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    ).backend_tokenizer


def _named_token(folder: pathlib.Path, kind: str, pieces: Mapping[int, str]) -> Any:
    """The id of "bos_token" or "eos_token", from whichever of the directory's files names it; it is
    of any type where a file is wrong.
    """
    ids = {piece: i for i, piece in pieces.items()}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json(folder / name).get(kind)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and content in ids:
            return ids[content]
    for name in ("generation_config.json", "config.json"):
        token_id = _json(folder / name).get(f"{kind}_id")
        if isinstance(token_id, list):
            token_id = token_id[0] if token_id else None
        if token_id is not None:
            return token_id
    return None


def _json(path: pathlib.Path) -> dict[str, Any]:
    return read_json(path, AssetError) if path.is_file() else {}


def _assemble(
    path: pathlib.Path,
    backend: tokenizers.Tokenizer,
    token_bytes: tuple[bytes, ...],
    special_ids: frozenset[int],
    bos_id: Any,
    eos_id: Any,
    adds_bos: bool,
    adds_space: bool,
) -> TextTokenizer:
    if eos_id is None:
        raise AssetError(f"{path}: the tokenizer names no end-of-sequence token")
    for kind, token_id in (("begin", bos_id), ("end", eos_id)):
        known = type(token_id) is int and 0 <= token_id < len(token_bytes)
        if token_id is not None and not known:
            raise AssetError(
                f"{path}: the {kind}-of-sequence token has the id {token_id!r}, but the vocabulary "
                f"has the ids 0 to {len(token_bytes) - 1}; give the files of one model"
            )
    digest = hashlib.sha256()
    for token in token_bytes:
        digest.update(len(token).to_bytes(4, "little") + token)
    return TextTokenizer(
        backend=backend,
        token_bytes=token_bytes,
        special_ids=special_ids | {i for i in (bos_id, eos_id) if i is not None},
        bos_id=bos_id,
        eos_id=eos_id,
        adds_bos=adds_bos,
        adds_space=adds_space,
        fingerprint=digest.hexdigest()[:16],
        inside=_without_space(backend) if adds_space else None,
    )


def _without_space(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The pipeline without the step that puts a space before the text."""
    pipeline = json.loads(backend.to_str())
    for stage in ("normalizer", "pre_tokenizer"):
        pipeline[stage] = _spaceless(pipeline[stage])
    changed = tokenizers.Tokenizer.from_str(json.dumps(pipeline))
    changed.encode_special_tokens = backend.encode_special_tokens
    return changed


def _spaceless(step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A step of a pipeline, or a sequence of steps, that puts no space before the text."""
    kind = step["type"] if step else ""
    if step is None or kind == "Prepend":
        return None
    if kind == "Metaspace":
        return step | {"prepend_scheme": "never"}
    for parts in ("normalizers", "pretokenizers"):
        if parts in step:
            kept = [part for part in map(_spaceless, step[parts]) if part is not None]
            return step | {parts: kept}
    return step
