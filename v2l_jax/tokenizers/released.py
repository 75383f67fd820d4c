"""A trained tokenizer as a folder of files, and back: tensors and JSON only, every file checked.

    config.json                 sizes, image side, what the words belong to, a digest of each file
    model.safetensors           the parameters, named by their path
    local_words.safetensors     the codebooks (`Codebook` files): words, their token ids, their
                                vectors
    global_words.safetensors

Numbers are stored in half precision by default: a tokenizer that was saved and loaded is the
original one, each number rounded to float16 once. Saving what was loaded loses nothing more: the
same numbers, and so the same words and pictures bit for bit.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy

from v2l_jax.atomic_write import atomic_write
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import CheckpointError, ConfigError
from v2l_jax.formats.checked_tensors import fitting_together
from v2l_jax.formats.safetensors_files import read_safetensors
from v2l_jax.formats.text_files import entry, read_json
from v2l_jax.tokenizers.reference import check_shapes, v2l_shapes
from v2l_jax.tokenizers.v2l_network import V2LTokenizer

FORMAT = "v2l_jax tokenizer 1"
SHIPPED = pathlib.Path(__file__).parents[1] / "assets" / "released"
"""The tokenizers that come with this package, a folder each."""

DTYPES = ("float16", "float32")

_CONFIG, _WEIGHTS, _LOCAL, _GLOBAL = (
    "config.json",
    "model.safetensors",
    "local_words.safetensors",
    "global_words.safetensors",
)
_SIZES = (
    "channels",
    "channel_multipliers",
    "num_res_blocks",
    "z_channels",
    "attn_resolutions",
    "resolution",
    "word_dim",
    "num_local_words",
    "num_global_words",
    "cross_attention_heads",
)
_NUMBERS = ("image_size", "global_tokens")
_VECTORS_MAY_DIFFER = 0.05  # of a word's unit vector: towers run in other precisions elsewhere


@dataclasses.dataclass(frozen=True)
class ReleasedTokenizer:
    """A tokenizer that needs nothing else to turn images into words and back.

    Attributes:
      model: the network; computes in float32 unless `model.clone(dtype=…)`.
      variables: "params", and "frozen" with local_words and global_words; float32, on the host.
      local_words: what local ids stand for.
      global_words: what global ids stand for.
      image_size: side of the images that it was trained on.
      global_tokens: global words an image had in training, `k`.
      name: what it is called.
    """

    model: V2LTokenizer
    variables: dict[str, Any]
    local_words: Codebook
    global_words: Codebook
    image_size: int
    global_tokens: int
    name: str

    def check_words(self, local: Codebook) -> None:
        """Checks that another run's local codebook is this tokenizer's, so that its parameters can
        be used there.

        Raises:
          ConfigError: other words, another order, or vectors of another tower; says which.
        """
        own = self.local_words
        if local.llm != own.llm:
            raise ConfigError(
                f"{self.name} speaks the words of another language model (tokenizer {own.llm}, "
                f"not {local.llm})"
            )
        if local.token_ids != own.token_ids:
            raise ConfigError(
                f"{self.name} has {len(own)} local words, others or in another order than these "
                f"{len(local)}"
            )
        apart = (
            np.abs(np.asarray(local.embeddings) - own.embeddings).max()
            if local.embeddings.shape == own.embeddings.shape
            else np.inf
        )
        if (
            local.tower != own.tower
            or not apart <= _VECTORS_MAY_DIFFER * np.linalg.norm(own.embeddings, axis=1).max()
        ):
            raise ConfigError(
                f"{self.name}'s word vectors are of the tower {own.tower}; these are of "
                f"{local.tower}, or were made otherwise"
            )

    def check_sizes(self, model: V2LTokenizer) -> None:
        """Checks that another model is built like this one, so that it can take its parameters;
        global words may be others.

        Raises:
          ConfigError: it is not; says where.
        """
        for size in _SIZES:
            ours, theirs = getattr(self.model, size), getattr(model, size)
            if ours != theirs and size != "num_global_words":
                raise ConfigError(
                    f"{self.name} has {size} {ours}, config.model {theirs}: take its sizes, or do "
                    "not start from it"
                )


def save_tokenizer(
    folder: str | pathlib.Path,
    model: V2LTokenizer,
    params: Any,
    local_words: Codebook,
    global_words: Codebook,
    *,
    image_size: int,
    global_tokens: int,
    name: str,
    dtype: str = "float16",
) -> None:
    """Writes the files; config.json comes last, so that a folder that has it is whole.

    Args:
      folder: made if missing.
      model, params: the tokenizer and its "params".
      local_words, global_words: its codebooks.
      image_size, global_tokens, name: see `ReleasedTokenizer`.
      dtype: of the stored numbers: "float16", half the size, or "float32", which loses nothing.

    Raises:
      CheckpointError: a number is not finite, or too large for `dtype`.
    """
    folder, kind = pathlib.Path(folder), np.dtype(dtype)
    tensors = {}
    for path, value in flax.traverse_util.flatten_dict(jax.device_get(params), sep="/").items():
        tensors[path] = np.ascontiguousarray(value, kind)
        if not np.isfinite(tensors[path]).all():
            raise CheckpointError(
                f"{path} has numbers that {dtype} cannot hold; save it as float32, or train anew"
            )
    (folder / _CONFIG).unlink(missing_ok=True)
    local_words.save(folder / _LOCAL, kind)
    global_words.save(folder / _GLOBAL, kind)
    with atomic_write(folder / _WEIGHTS) as draft:
        safetensors.numpy.save_file(tensors, draft, {"format": FORMAT})
    described = {
        "format": FORMAT,
        "name": name,
        "model": {size: getattr(model, size) for size in _SIZES},
        "image_size": image_size,
        "global_tokens": global_tokens,
        "dtype": dtype,
        "llm": local_words.llm,
        "tower": local_words.tower,
        "sha256": {file: _digest(folder / file) for file in (_WEIGHTS, _LOCAL, _GLOBAL)},
    }
    with atomic_write(folder / _CONFIG) as draft:
        draft.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def load_tokenizer(folder: str | pathlib.Path, llm: str | None = None) -> ReleasedTokenizer:
    """Reads what `save_tokenizer` wrote; nothing is unpickled.

    Args:
      folder: the folder, or the name of a tokenizer that comes with this package ("v2l-mini").
      llm: fingerprint of the language model's tokenizer that the words must belong to
        (`TextTokenizer.fingerprint`); None takes any.

    Raises:
      CheckpointError: a file is missing, cut short or changed; tensors are missing or do not fit
        together.
      ConfigError: the words are another language model's.
    """
    folder = SHIPPED / folder if (SHIPPED / folder / _CONFIG).exists() else pathlib.Path(folder)
    described = _read_config(folder / _CONFIG)
    for file, digest in described["sha256"].items():
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder} lacks {file}; get it again")
        if _digest(folder / file) != digest:
            raise CheckpointError(f"{folder / file} was cut short or changed; get it again")
    with fitting_together(str(folder), "a tokenizer of this version"):
        where = str(folder / _CONFIG)
        numbers = {key: entry(described, key, int, where, CheckpointError) for key in _NUMBERS}
        rest = numbers | {"name": entry(described, "name", str, where, CheckpointError)}
        llm_of_words = entry(described, "llm", str, where, CheckpointError)
        arrays = {
            name: np.asarray(array, np.float32)
            for name, array in read_safetensors(folder / _WEIGHTS).items()
        }
        model = V2LTokenizer(**_sizes(described.get("model"), len(arrays), where))
        local, global_ = Codebook.load(folder / _LOCAL), Codebook.load(folder / _GLOBAL)
        params = flax.traverse_util.unflatten_dict(arrays, sep="/")
        check_shapes(v2l_shapes(model), params)
    for book, count in ((local, model.num_local_words), (global_, model.num_global_words)):
        if book.embeddings.shape != (count, model.word_dim) or book.llm != llm_of_words:
            raise CheckpointError(
                f"the words in {folder} are not those of its config.json; get it again"
            )
    if llm is not None:
        local.check_made_for(llm)
    frozen = {"local_words": local.embeddings, "global_words": global_.embeddings}
    return ReleasedTokenizer(model, {"params": params, "frozen": frozen}, local, global_, **rest)


def _read_config(path: pathlib.Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the folder of a released tokenizer")
    described = read_json(path, CheckpointError, remedy="give the folder of a released tokenizer")
    if described.get("format") != FORMAT:
        raise CheckpointError(f"{path} does not describe a tokenizer of this version ({FORMAT})")
    digests = described.get("sha256")
    if not isinstance(digests, Mapping) or set(digests) != {_WEIGHTS, _LOCAL, _GLOBAL}:
        raise CheckpointError(
            f"{path} does not name the three files of a tokenizer with their digests; get it again"
        )
    return described


def _sizes(given: Any, arrays: int, where: str) -> dict[str, Any]:
    """The sizes that a config.json states.

    Raises:
      CheckpointError: one is missing or no whole number, or there are more blocks than arrays.
    """
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{where}: 'model' must be an object of sizes; get it again")
    sizes = {}
    for name in _SIZES:
        value = given.get(name)
        sizes[name] = tuple(value) if isinstance(value, list) else value
        numbers = sizes[name] if isinstance(value, list) else (value,)
        if not all(isinstance(n, int) and 0 <= n < 1 << 31 for n in numbers):
            raise CheckpointError(f"{where}: {name!r} is {value!r:.80}; get it again")
    blocks, levels = sizes["num_res_blocks"], sizes["channel_multipliers"]
    if not isinstance(levels, tuple) or max(blocks, 1) * len(levels) > arrays:
        raise CheckpointError(f"{where} asks for {blocks} blocks a level, but has {arrays} arrays")
    return sizes


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
