"""SentencePiece's own files (tokenizer.model), as LLaMA 1/2 and Mistral were published with."""

import pathlib
from typing import Any

from v2l_jax.errors import AssetError

FILE = "tokenizer.model"
_BPE = 2
_USER_DEFINED = 4


def read_sentencepiece(path: pathlib.Path) -> dict[str, Any]:
    """Reads a tokenizer.model of the byte-pair kind.

    Returns:
      What a GGUF file would say of it, `tokenizer.ggml.*`, for `gguf_tokenizers.build`.

    Raises:
      AssetError: not such a file, or of a kind that LLMs of the LLaMA family do not use.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise AssetError(
            f"{path} is not a readable SentencePiece model ({error}); download it again"
        ) from error
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    readable = all(isinstance(piece.piece, str) for piece in model.pieces)  # else not UTF-8
    if not model.pieces or not readable or trainer.model_type != _BPE:
        raise AssetError(
            f"{path} is not a byte-pair SentencePiece model with pieces, as the LLaMA family's are "
            "(tiktoken's files have the same name); give the directory with tokenizer.json"
        )
    if normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        raise AssetError(
            f"{path} normalises texts ({normalizer.name}), which is not supported; give the "
            "directory with tokenizer.json"
        )
    if any(piece.type == _USER_DEFINED for piece in model.pieces):
        raise AssetError(
            f"{path} has user-defined symbols, around which texts are cut in a way that is not "
            "reproduced here; give the directory with tokenizer.json"
        )
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.piece for piece in model.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in model.pieces],
        "tokenizer.ggml.token_type": [piece.type for piece in model.pieces],
        "tokenizer.ggml.bos_token_id": trainer.bos_id if trainer.bos_id >= 0 else None,
        "tokenizer.ggml.eos_token_id": trainer.eos_id if trainer.eos_id >= 0 else None,
        "tokenizer.ggml.add_space_prefix": normalizer.add_dummy_prefix,
    }
