"""Pipelines of the `tokenizers` library: damaged files as the project's own errors, and a check of
their ids.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator

import tokenizers

from v2l_jax.errors import CheckpointError, V2LError


@contextlib.contextmanager
def tokenizer_errors(
    folder: pathlib.Path, error: Callable[[str], V2LError] = CheckpointError
) -> Iterator[None]:
    """Says in one line what `tokenizers` and transformers raise: any Exception, and panics, which
    are none.

    Args:
      folder: what to name in the error.
      error: makes the error to raise.

    Raises:
      V2LError: what `error` makes; those that are raised inside pass.
    """
    try:
        yield
    except V2LError:
        raise
    except BaseException as cause:
        if not isinstance(cause, Exception) and type(cause).__name__ != "PanicException":
            raise
        reason = str(cause).splitlines()[0] if str(cause) else repr(cause)
        raise error(
            f"{folder}: no readable tokenizer ({reason}); it needs tokenizer.json"
        ) from cause


def check_ids(
    tokenizer: tokenizers.Tokenizer,
    rows: int,
    where: str,
    error: Callable[[str], V2LError] = CheckpointError,
) -> None:
    """Checks that every token which a text can hold has a row in the embedding table; special
    tokens that were added do not count.

    Args:
      tokenizer: the pipeline.
      rows: of the embedding table.
      where: what to call the model in an error.
      error: makes the error to raise.

    Raises:
      V2LError: what `error` makes: tokens lie beyond the table.
    """
    special = {t["id"] for t in json.loads(tokenizer.to_str())["added_tokens"] if t["special"]}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    beyond = sorted(i for i in vocabulary.values() if i >= rows and i not in special)
    if beyond:
        raise error(
            f"{where}: its tokenizer has {len(vocabulary)} tokens, but its embedding table {rows} "
            f"rows; {len(beyond)} tokens, such as {tokenizer.id_to_token(beyond[0])!r}, have none: "
            "give the tokenizer that belongs to these weights"
        )
