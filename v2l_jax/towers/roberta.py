"""RoBERTa (Liu et al. 2019) as a frozen network in the middle of another one: from input vectors to
hidden states, and to the logits of its masked language model.

Its layers are BERT's. A plain BERT can be read in its place; one without a language-model head,
such as a sentence encoder, has no logits.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from v2l_jax.errors import CheckpointError
from v2l_jax.formats.checked_tensors import fitting_together, refuse_quantised_config
from v2l_jax.formats.safetensors_files import read_safetensors
from v2l_jax.formats.text_files import entry, read_json
from v2l_jax.ops.precision import EXACT
from v2l_jax.towers.bert import Bert, BertConfig, check_shapes, convert_checkpoint, sizes

_HEAD = {"dense": "dense", "norm": "layer_norm"}


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModel:
    """Sizes and habits of a RoBERTa or BERT; parameters are passed to its methods.

    Attributes:
      name: what it is called in results.
      config: sizes.
      mask_id: the token that stands for a hidden one.
      pad_id: RoBERTa counts positions from pad_id + 1 on and leaves out pad tokens; None for BERT,
        whose positions count from 0.
      has_head: whether there are logits.
      dtype: type that matrix products round their operands to.
    """

    name: str
    config: BertConfig
    mask_id: int
    pad_id: int | None = 1
    has_head: bool = True
    dtype: DTypeLike = jnp.float32

    @property
    def longest(self) -> int:
        """Tokens of the longest text that has positions."""
        first = 0 if self.pad_id is None else self.pad_id + 1
        return self.config.max_position_embeddings - first

    def positions(self, ids: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
        """The row of the position table that each token takes."""
        if self.pad_id is None:
            return jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        counts = ids != self.pad_id
        return jnp.cumsum(counts, axis=1) * counts + self.pad_id

    def embeddings(self, params: Any) -> Float[Array, "token width"]:
        """The vectors of all tokens."""
        return params["token_embedding"]["embedding"]

    def hidden(
        self,
        params: Any,
        inputs: Float[Array, "batch length width"],
        ids: Int[Array, "batch length"],
    ) -> Float[Array, "batch length width"]:
        """Last hidden states; gradients reach the inputs.

        Args:
          params: parameters; `frozen` says that they are.
          inputs: vectors in place of the tokens' embeddings.
          ids: the tokens that positions are counted by.
        """
        lengths = jnp.full(len(ids), ids.shape[1], jnp.int32)
        positions = self.positions(ids)
        encoder = {name: value for name, value in params.items() if name != "head"}
        network = Bert(self.config, self.dtype)
        return network.apply({"params": encoder}, None, lengths, inputs, positions)

    def logits(
        self, params: Any, hidden: Float[Array, "batch length width"]
    ) -> Float[Array, "batch length token"]:
        """Of the masked language model: dense, exact GELU, LayerNorm, the tokens' vectors."""
        head = params["head"]
        y = jnp.matmul(hidden, head["dense"]["kernel"], precision=EXACT)
        y = nn.gelu(y + head["dense"]["bias"], approximate=False)
        centred = y - y.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + self.config.layer_norm_eps)
        y = centred * scale * head["norm"]["scale"] + head["norm"]["bias"]
        return jnp.matmul(y, self.embeddings(params).T, precision=EXACT) + head["bias"]


def load_masked_language_model(
    path: str | pathlib.Path, name: str = ""
) -> tuple[MaskedLanguageModel, dict[str, Any]]:
    """Reads a Hugging Face directory (config.json, model.safetensors) of RoBERTa or BERT.

    Args:
      path: the directory.
      name: what to call it; by default the directory's name.

    Returns:
      The model and its parameters, numpy float32; with "head" where the file has one.

    Raises:
      CheckpointError: it is of another kind, or tensors are missing.
    """
    path = pathlib.Path(path)
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: give the directory of a RoBERTa or BERT")
    raw, tensors = _read_config(path), dict(read_safetensors(path))
    kind = raw["model_type"]
    vocabulary = 50265 if kind == "roberta" else 30522
    config = BertConfig(**sizes(raw, str(path / "config.json"), vocabulary))
    tensors = {re.sub(r"^(roberta|bert)\.", "", key): np.asarray(x) for key, x in tensors.items()}
    with fitting_together(str(path), f"the {kind} of its config"):
        params = convert_checkpoint(tensors, config.num_hidden_layers)
        check_shapes(config, params, str(path))
        head = _head(tensors, "lm_head" if kind == "roberta" else "cls.predictions")
    if head is not None:
        params["head"] = head
    pad_id = None
    if kind == "roberta":
        said = {"pad_token_id": 1} | raw
        pad_id = entry(said, "pad_token_id", int, str(path / "config.json"), CheckpointError)
    mask_id = _mask_id(path, config.vocab_size)
    model = MaskedLanguageModel(name or path.name, config, mask_id, pad_id, head is not None)
    return model, jax.tree.map(functools.partial(np.asarray, dtype=np.float32), params)


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    raw = read_json(path / "config.json", CheckpointError)
    refuse_quantised_config(raw, str(path / "config.json"))
    if raw.get("model_type") not in ("roberta", "bert"):
        raise CheckpointError(f"{path} holds a {raw.get('model_type')!r} model, not a 'roberta'")
    expected = (("hidden_act", "gelu"), ("position_embedding_type", "absolute"))
    other = [f"{key} = {raw[key]!r}" for key, value in expected if raw.get(key, value) != value]
    if other:
        raise CheckpointError(f"{path}: a {raw['model_type']} with {', '.join(other)} is unknown")
    return raw


def _head(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any] | None:
    if prefix == "cls.predictions":
        names = {"dense": "transform.dense", "norm": "transform.LayerNorm"}
    else:
        names = _HEAD
    if f"{prefix}.{names['dense']}.weight" not in tensors:
        return None
    at = lambda part, leaf: tensors[f"{prefix}.{names[part]}.{leaf}"]
    return {
        "dense": {"kernel": at("dense", "weight").T, "bias": at("dense", "bias")},
        "norm": {"scale": at("norm", "weight"), "bias": at("norm", "bias")},
        "bias": tensors[f"{prefix}.bias"],
    }


def _mask_id(path: pathlib.Path, vocab_size: int) -> int:
    """The id of the mask token, by tokenizer.json or vocab.json; the last one where neither is."""
    for file, find in (
        ("tokenizer.json", lambda raw: {t["content"]: t["id"] for t in raw["added_tokens"]}),
        ("vocab.json", lambda raw: raw),
    ):
        if not (path / file).is_file():
            continue
        raw = read_json(path / file, CheckpointError)
        try:
            known = find(raw)
            found = [int(known[text]) for text in ("<mask>", "[MASK]") if text in known]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path / file} is damaged ({error!r}); download it again"
            ) from error
        if found and not 0 <= found[0] < vocab_size:
            raise CheckpointError(
                f"{path / file}: the mask token has the id {found[0]}, but there are {vocab_size} "
                "rows of embeddings"
            )
        if found:
            return found[0]
    return vocab_size - 1
