"""The Codebook: words of a language model, their token ids, and their vectors in an image-text
space.
"""

import dataclasses
import json
import os
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float

from v2l_jax.atomic_write import atomic_write
from v2l_jax.errors import CheckpointError, ConfigError

_FORMAT = "v2l_jax codebook 1"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebook:
    """Words and their vectors; a pytree whose only leaf is `embeddings`.

    Attributes:
      embeddings: one row a word; frozen during tokenizer training.
      texts: the words as the language model decodes them (" dog" keeps its space).
      token_ids: the language model's token ids of each text.
      tower: name of the image-text tower whose text side made the embeddings.
      llm: fingerprint of the tokenizer that the token ids belong to.
    """

    embeddings: Float[np.ndarray | jax.Array, "words dim"]
    texts: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    token_ids: tuple[tuple[int, ...], ...] = dataclasses.field(metadata={"static": True})
    tower: str = dataclasses.field(metadata={"static": True})
    llm: str = dataclasses.field(metadata={"static": True})

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: np.ndarray) -> "Codebook":
        """Returns the codebook of the rows `indices`, in that order."""
        return dataclasses.replace(
            self,
            embeddings=np.asarray(self.embeddings)[indices],
            texts=tuple(self.texts[i] for i in indices),
            token_ids=tuple(self.token_ids[i] for i in indices),
        )

    def check_made_for(self, llm: str) -> None:
        """Checks that the token ids belong to a language model's tokenizer.

        Args:
          llm: the tokenizer's fingerprint.

        Raises:
          ConfigError: they belong to another tokenizer.
        """
        if self.llm != llm:
            raise ConfigError(
                f"this codebook holds words of another language model (tokenizer {self.llm}) than "
                "the one configured "
                f"({llm}); run the codebook job again in a fresh workdir"
            )

    def save(self, path: str | os.PathLike[str], dtype: Any = np.float32) -> None:
        """Writes one safetensors file atomically, with the vectors as `dtype`."""
        lengths = [len(ids) for ids in self.token_ids]
        tensors = {
            "embeddings": np.ascontiguousarray(self.embeddings, dtype),
            "token_ids": np.asarray([i for ids in self.token_ids for i in ids], np.int32),
            "token_offsets": np.cumsum([0, *lengths], dtype=np.int64),
        }
        metadata = {
            "format": _FORMAT,
            "texts": json.dumps(self.texts),
            "tower": self.tower,
            "llm": self.llm,
        }
        with atomic_write(path) as draft:
            safetensors.numpy.save_file(tensors, draft, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Codebook":
        """Reads what `save` wrote; vectors become float32.

        Raises:
          CheckpointError: the file is missing, truncated, or not a codebook.
        """
        try:
            with safetensors.safe_open(os.fspath(path), "numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise CheckpointError(
                        f"{path} is not a codebook of this version; run the codebook job again"
                    )
                embeddings, ids, offsets = (
                    file.get_tensor(k) for k in ("embeddings", "token_ids", "token_offsets")
                )
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise CheckpointError(
                f"cannot read the codebook {path}: {error}; run the codebook job again"
            ) from error
        try:
            token_ids = tuple(
                tuple(int(i) for i in ids[a:b])
                for a, b in zip(offsets[:-1], offsets[1:], strict=True)
            )
            texts = tuple(json.loads(metadata["texts"]))
            if not len(texts) == len(token_ids) == len(embeddings) or embeddings.ndim != 2:
                raise ValueError(f"{len(texts)} texts, {embeddings.shape} numbers")
            return cls(
                embeddings.astype(np.float32), texts, token_ids, metadata["tower"], metadata["llm"]
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"the codebook {path} is damaged ({error!r:.120}); run the codebook job again"
            ) from error
