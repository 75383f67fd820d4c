"""Codebooks whose words are one token each, as the local one is: rows ⇄ token ids."""

import dataclasses

import numpy as np
from jaxtyping import Int, Integer

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class SingleTokens:
    """Rows of a codebook ⇄ token ids of the language model.

    Attributes:
      token_ids: the token of each row; all different.
    """

    token_ids: Int[np.ndarray, " words"]

    @classmethod
    def of(cls, codebook: Codebook) -> "SingleTokens":
        """The tokens of a codebook's words.

        Raises:
          ConfigError: a word is not one token, or two words are the same.
        """
        pairs = zip(codebook.texts, codebook.token_ids, strict=True)
        longer = [text for text, ids in pairs if len(ids) != 1]
        if longer:
            raise ConfigError(
                f"{len(longer)} words of the local codebook are not one token each (such as "
                f"{longer[0]!r}); run the codebook job again"
            )
        token_ids = np.asarray([ids[0] for ids in codebook.token_ids], np.int32)
        if len(np.unique(token_ids)) < len(token_ids):
            raise ConfigError(
                "two words of the local codebook are the same token; run the codebook job again"
            )
        return cls(token_ids)

    def rows(self, token_ids: Integer[np.ndarray, "*shape"]) -> Int[np.ndarray, "*shape"]:
        """Inverse of `token_ids[rows]`; every id must be a word's."""
        order = np.argsort(self.token_ids)
        return order[np.searchsorted(self.token_ids, token_ids, sorter=order)].astype(np.int32)
