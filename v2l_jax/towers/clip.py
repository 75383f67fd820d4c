"""CLIP image and text towers (Radford et al. 2021), for the checkpoints of OpenAI and LAION with a
ViT image side.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from v2l_jax.data.transforms import clip_preprocess
from v2l_jax.errors import CheckpointError
from v2l_jax.formats.text_files import read_json, read_text
from v2l_jax.formats.tokenizer_files import check_ids, tokenizer_errors
from v2l_jax.ops.matmul import dot_general_in
from v2l_jax.ops.precision import EXACT
from v2l_jax.ops.unit_vectors import unit_vectors
from v2l_jax.towers.image_text import ImageTextTower
from v2l_jax.towers.text_batches import encode_in_buckets
from v2l_jax.towers.transformer import Activation, TransformerConfig, blocks, layer_norm


@dataclasses.dataclass(frozen=True)
class ClipImageConfig:
    """Image side: a ViT on `image_size`² pixels cut into `patch_size`² patches, projected to
    `dim`.
    """

    transformer: TransformerConfig
    patch_size: int
    image_size: int
    dim: int


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """Text side: a causal transformer over at most `context_length` tokens, projected to `dim`."""

    transformer: TransformerConfig
    vocab_size: int
    context_length: int
    dim: int


class ClipImage(nn.Module):
    """Image side of CLIP.

    Attributes:
      config: sizes.
      matmul_dtype: type that matrix products round their operands to.
    """

    config: ClipImageConfig
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch dim"], Float[Array, "batch patch dim"]]:
        """Encodes images normalised with CLIP's mean and standard deviation.

        Returns:
          The class token, CLIP's image embedding, and the patch tokens in raster order, both after
          the final norm and the projection, not L2-normalised. (The V2L reference calls them global
          and local tokens.)
        """
        c, t = self.config, self.config.transformer
        patch = (c.patch_size, c.patch_size)
        dot = dot_general_in(self.matmul_dtype)
        x = nn.Conv(
            t.width,
            patch,
            patch,
            padding="VALID",
            use_bias=False,
            precision=EXACT,
            name="patch_embedding",
        )(images)
        x = x.reshape(x.shape[0], -1, t.width)
        init = nn.initializers.normal(t.width**-0.5)
        class_token = self.param("class_embedding", init, (t.width,))
        x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, t.width)), x], axis=1)
        x = x + self.param(
            "position_embedding", init, ((c.image_size // c.patch_size) ** 2 + 1, t.width)
        )
        x, _ = blocks(t, self.matmul_dtype)(layer_norm(t, "norm_pre")(x), None)
        x = nn.Dense(c.dim, use_bias=False, dot_general=dot, name="projection")(
            layer_norm(t, "norm_post")(x)
        )
        return x[:, 0], x[:, 1:]


class ClipText(nn.Module):
    """Text side of CLIP.

    Attributes:
      config: sizes.
      matmul_dtype: type that matrix products round their operands to.
    """

    config: ClipTextConfig
    matmul_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, ids: Int[Array, "batch length"], lengths: Int[Array, "batch"]
    ) -> Float[Array, "batch dim"]:
        """Encodes token ids that start with the start-of-text and, at `lengths - 1`, end with the
        end-of-text token.

        The embedding is read at the end-of-text token; attention is causal, so what follows it does
        not matter.
        """
        c, t = self.config, self.config.transformer
        length = ids.shape[1]
        x = nn.Embed(c.vocab_size, t.width, name="token_embedding")(ids)
        x = (
            x
            + self.param(
                "position_embedding", nn.initializers.normal(0.01), (c.context_length, t.width)
            )[:length]
        )
        x, _ = blocks(t, self.matmul_dtype)(x, jnp.tril(jnp.ones((1, 1, length, length), bool)))
        x = x[jnp.arange(ids.shape[0]), lengths - 1]
        dot = dot_general_in(self.matmul_dtype)
        return nn.Dense(c.dim, use_bias=False, dot_general=dot, name="projection")(
            layer_norm(t, "norm_final")(x)
        )


def encode_image(
    model: ClipImage,
    params: dict[str, Any],
    images: Float[Array | np.ndarray, "batch height width 3"],
) -> Float[Array, "batch dim"]:
    """CLIP's image embedding of preprocessed images, as unit vectors."""
    return unit_vectors(model.apply({"params": params}, jnp.asarray(images))[0])


@functools.partial(jax.jit, static_argnums=0)
def encode_token_ids(
    model: ClipText,
    params: dict[str, Any],
    ids: Int[Array, "batch length"],
    lengths: Int[Array, "batch"],
) -> Float[Array, "batch dim"]:
    """CLIP's text embedding of token ids, real up to `lengths`, as unit vectors."""
    return unit_vectors(model.apply({"params": params}, ids, lengths))


def encode_texts(
    model: ClipText,
    params: dict[str, Any],
    tokenizer: Any,
    texts: Sequence[str],
    batch_size: int = 256,
) -> Float[np.ndarray, "text dim"]:
    """CLIP's text embeddings, L2-normalised; texts are padded to a few bucket lengths, not to the
    full context.
    """
    token_ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    encode = functools.partial(encode_token_ids, model, params)
    return encode_in_buckets(token_ids, encode, batch_size, "Encoding texts")


def load_text_tokenizer(path: str | pathlib.Path, context_length: int) -> Any:
    """Reads CLIP's byte-pair tokenizer from a directory with tokenizer.json, or vocab.json and
    merges.txt.

    Returns:
      A `tokenizers.Tokenizer` that adds start and end of text, truncates to `context_length` and
      does not pad.

    Raises:
      CheckpointError: neither is there, or it is damaged.
    """
    path = pathlib.Path(path)
    with tokenizer_errors(path):
        tokenizer = _read_tokenizer(path)
        tokenizer.no_padding()
        tokenizer.enable_truncation(context_length)
    return tokenizer


def _read_tokenizer(path: pathlib.Path) -> Any:
    import tokenizers

    if (path / "tokenizer.json").is_file():
        return tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        import transformers

        vocab = read_json(path / "vocab.json", CheckpointError)
        lines = read_text(path / "merges.txt", CheckpointError).splitlines()
        merges = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        return transformers.CLIPTokenizer(vocab=vocab, merges=merges).backend_tokenizer
    raise CheckpointError(
        f"{path} has no tokenizer.json, nor vocab.json and merges.txt, for CLIP's texts"
    )


NEEDS_WEIGHTS = True


def open_tower(
    weights: str, options: Any, locate: Callable[[str], pathlib.Path], dtype: DTypeLike
) -> ImageTextTower:
    """The CLIP of a checkpoint; see `image_text.open_tower`."""
    stated = {
        "activation": options.activation,
        "heads": options.heads,
        "mean": options.image_mean,
        "std": options.image_std,
    }
    return load_clip(locate(weights), matmul_dtype=dtype, stated=stated)


def load_clip(
    path: str | pathlib.Path,
    tokenizer_path: str | pathlib.Path | None = None,
    activation: Activation | None = None,
    matmul_dtype: DTypeLike = jnp.float32,
    stated: Mapping[str, Any] | None = None,
) -> ImageTextTower:
    """Reads a CLIP into a tower of kind "clip".

    Args:
      path: a Hugging Face directory (config.json, safetensors), or a checkpoint file in OpenAI's
        own layout (`.pt`, also OpenCLIP's).
      tokenizer_path: directory of the tokenizer; by default the checkpoint's.
      activation: overrides what the files say.
      matmul_dtype: type that matrix products round their operands to.
      stated: further settings that override what the files say; arguments of
        `clip_settings.changed`.

    Raises:
      CheckpointError: not a CLIP with a ViT, or the tokenizer is missing.
    """
    from v2l_jax.towers import clip_settings, clip_weights

    path = pathlib.Path(path)
    tensors, settings = clip_weights.open_clip(path)
    overrides = dict(stated or {}) | ({"activation": activation} if activation else {})
    settings = clip_settings.changed(settings, **overrides)
    image_config, image_params, text_config, text_params = clip_weights.both_sides(
        path, tensors, settings
    )
    if settings.assumed:
        logging.warning("%s does not say; assumed: %s", path, "; ".join(settings.assumed))
    images = settings.preprocessing
    folder = (
        pathlib.Path(tokenizer_path) if tokenizer_path else (path if path.is_dir() else path.parent)
    )
    tokenizer = load_text_tokenizer(folder, text_config.context_length)
    check_ids(tokenizer, text_config.vocab_size, str(folder))
    return ImageTextTower(
        name=path.stem if path.is_file() else path.name,
        kind="clip",
        image_size=image_config.image_size,
        dim=image_config.dim,
        params=jax.device_put(image_params),
        preprocess=functools.partial(
            clip_preprocess, size=image_config.image_size, **dataclasses.asdict(images)
        ),
        encode_image=functools.partial(encode_image, ClipImage(image_config, matmul_dtype)),
        encode_texts=functools.partial(
            encode_texts,
            ClipText(text_config, matmul_dtype),
            jax.device_put(text_params),
            tokenizer,
        ),
        assumed=settings.assumed,
    )
