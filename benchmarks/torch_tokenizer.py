"""The peer: the V2L tokenizer and its training step in plain PyTorch, published names, channels
last.

As favourable to torch as plain code is: images are channels last, Adam is fused, `autocast` where
the type is bfloat16, the network is differentiated once a step (the adaptive weight through the
last convolution alone), only chosen words are projected with a gradient, and nothing is read back
to the host.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from flax.traverse_util import unflatten_dict
from torch import nn

from v2l_jax.tokenizers.autoencoder import attention_levels
from v2l_jax.tokenizers.reference import (
    discriminator_from_reference,
    parameter_path,
    to_flax_layout,
)
from v2l_jax.tokenizers.v2l import V2L
from v2l_jax.tokenizers.v2l_network import V2LTokenizer
from v2l_jax.training.losses import LossWeights

_VGG_POOLS = (2, 4, 7, 10)  # before which convolutions
_VGG_TAPS = (1, 3, 6, 9, 12)  # after which convolutions LPIPS looks
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two GroupNorm-swish-convolution stages around a shortcut."""

    def __init__(self, channels_in: int, channels: int):
        super().__init__()
        self.norm1, self.conv1 = _norm(channels_in), nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm2, self.conv2 = _norm(channels), nn.Conv2d(channels, channels, 3, padding=1)
        if channels_in != channels:
            self.nin_shortcut = nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c_in, h, w] → [b, c, h, w]."""
        hidden = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + hidden


class SelfAttention(nn.Module):
    """One head among all positions, added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] → the same."""
        hidden = self.norm(x)
        q, k, v = (layer(hidden).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return x + self.proj_out(attended)


class CrossAttention(nn.Module):
    """Positions look at a few context vectors; the result replaces them."""

    def __init__(self, channels: int, context: int, heads: int):
        super().__init__()
        self.heads, inner = heads, heads * channels
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, inner, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(inner, channels))

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w], [b, k, d] → [b, c, h, w]."""
        projected = self.to_q(x.flatten(2).transpose(1, 2)), self.to_k(context), self.to_v(context)
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.to_out(attended).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """Residual blocks of one resolution, attention after each where asked, and the change of
    resolution.
    """

    def __init__(self, channels_in: int, channels: int, blocks: int, attention: bool):
        super().__init__()
        widths = [channels_in, *[channels] * blocks]
        self.block = nn.ModuleList(map(ResidualBlock, widths, widths[1:]))
        self.attn = nn.ModuleList(SelfAttention(channels) for _ in range(blocks * attention))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c_in, h, w] → [b, c, h', w']."""
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        if hasattr(self, "downsample"):
            return self.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        if hasattr(self, "upsample"):
            return self.upsample.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


def _resample(channels: int, **options: int) -> nn.Module:
    module = nn.Module()
    module.conv = nn.Conv2d(channels, channels, 3, **options)
    return module


def _middle(channels: int) -> nn.Module:
    middle = nn.Module()
    middle.block_1, middle.attn_1, middle.block_2 = (
        ResidualBlock(channels, channels),
        SelfAttention(channels),
        ResidualBlock(channels, channels),
    )
    return middle


class Encoder(nn.Module):
    """Images to a feature map."""

    def __init__(self, m: V2LTokenizer, attention: tuple[bool, ...]):
        super().__init__()
        widths = [m.channels, *(m.channels * multiplier for multiplier in m.channel_multipliers)]
        self.conv_in = nn.Conv2d(3, m.channels, 3, padding=1)
        self.down = nn.ModuleList(
            map(Level, widths, widths[1:], [m.num_res_blocks] * len(attention), attention)
        )
        for level, width in zip(self.down[:-1], widths[1:]):
            level.downsample = _resample(width, stride=2)
        self.mid = _middle(widths[-1])
        self.norm_out, self.conv_out = (
            _norm(widths[-1]),
            nn.Conv2d(widths[-1], m.z_channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, 3, height, width] → [b, z, h, w]."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """A feature map and global words to what the last convolution, which is here too, makes images
    of.
    """

    def __init__(self, m: V2LTokenizer, attention: tuple[bool, ...]):
        super().__init__()
        widths = [m.channels * multiplier for multiplier in m.channel_multipliers]
        self.conv_in = nn.Conv2d(m.z_channels, widths[-1], 3, padding=1)
        self.mid = _middle(widths[-1])
        self.mid.cross_attn_1 = CrossAttention(widths[-1], m.word_dim, m.cross_attention_heads)
        self.up = nn.ModuleList(
            map(
                Level,
                [*widths[1:], widths[-1]],
                widths,
                [m.num_res_blocks + 1] * len(attention),
                attention,
            )
        )
        for level, width in zip(self.up[1:], widths[1:]):
            level.upsample = _resample(width, padding=1)
        self.norm_out, self.conv_out = _norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """[b, z, h, w], [b, k, d] → [b, c, height, width]."""
        x = self.mid.attn_1(self.mid.block_1(self.conv_in(z)))
        x = self.mid.block_2(self.mid.cross_attn_1(x, context))
        for level in reversed(self.up):
            x = level(x)
        return F.silu(self.norm_out(x))


class Tokenizer(nn.Module):
    """Encoder, quantizers, decoder; sizes are those of `m`, word vectors are frozen."""

    def __init__(self, m: V2LTokenizer, local_words: np.ndarray, global_words: np.ndarray):
        super().__init__()
        attention = attention_levels(m.channel_multipliers, m.attn_resolutions, m.resolution)
        self.encoder, self.decoder = Encoder(m, attention), Decoder(m, attention)
        self.quant_conv, self.post_quant_conv = (
            nn.Conv2d(m.z_channels, m.word_dim, 1),
            nn.Conv2d(m.word_dim, m.z_channels, 1),
        )
        self.codebook_projection = nn.Linear(m.word_dim, m.word_dim)
        nn.init.normal_(self.codebook_projection.weight, std=m.word_dim**-0.5)
        self.codebook_weight = m.codebook_weight
        self.register_buffer("local_words", torch.tensor(local_words), persistent=False)
        self.register_buffer("global_words", torch.tensor(global_words), persistent=False)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """[b, 3, height, width] → features of unit length, float32 [b, h, w, d]."""
        return F.normalize(
            self.quant_conv(self.encoder(image)).float().permute(0, 2, 3, 1), dim=-1, eps=1e-6
        )

    def local_ids(self, features: torch.Tensor) -> torch.Tensor:
        """The nearest projected words [b, h, w]."""
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            words = self.codebook_projection(self.local_words)
            distances = torch.addmm(
                (words**2).sum(dim=1), features.flatten(0, 2), words.T, alpha=-2.0
            )
            return distances.argmin(dim=1).reshape(features.shape[:3])

    def global_ids(self, image_embedding: torch.Tensor, k: int) -> torch.Tensor:
        """The k nearest global words [b, k] of embeddings [b, d]."""
        with torch.no_grad(), torch.autocast(image_embedding.device.type, enabled=False):
            distances = torch.addmm(
                (self.global_words**2).sum(dim=1),
                F.normalize(image_embedding, dim=1),
                self.global_words.T,
                alpha=-2.0,
            )
            return distances.topk(k, dim=1, largest=False).indices

    def reconstruct(
        self, image: torch.Tensor, global_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, the input of the last convolution, the quantizer's loss."""
        features = self.encode(image)
        ids = self.local_ids(features)
        with torch.autocast(image.device.type, enabled=False):
            vectors = self.codebook_projection(self.local_words[ids])
            loss = F.mse_loss(features, vectors.detach()) + self.codebook_weight * F.mse_loss(
                vectors, features.detach()
            )
            vectors = features + (vectors - features).detach()
        last = self.decoder(
            self.post_quant_conv(vectors.permute(0, 3, 1, 2)), self.global_words[global_ids]
        )
        return self.decoder.conv_out(last).float(), last, loss

    def tokenize(
        self, image: torch.Tensor, image_embedding: torch.Tensor, k: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Global and local words."""
        return self.global_ids(image_embedding, k), self.local_ids(self.encode(image))


class Discriminator(nn.Module):
    """PatchGAN."""

    def __init__(self, channels: int = 64):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        for width, stride in ((channels, 2), (2 * channels, 1)):
            layers += [
                nn.Conv2d(width, 2 * width, 4, stride, 1, bias=False),
                nn.BatchNorm2d(2 * width),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(4 * channels, 1, 4, 1, 1))
        for layer in self.main:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """[b, 3, height, width] → [b, 1, h, w]."""
        return self.main(image).float()


class LPIPS(nn.Module):
    """LPIPS on VGG16, weights from the tree of `towers.vgg`."""

    def __init__(self, params: Mapping[str, Any]):
        super().__init__()
        self.convs = nn.ModuleList()
        for index in range(len(params["vgg"])):
            kernel, bias = (
                np.array(params["vgg"][f"conv_{index}"][leaf]) for leaf in ("kernel", "bias")
            )
            conv = nn.Conv2d(*kernel.shape[2:], 3, padding=1)
            conv.load_state_dict(
                {
                    "weight": torch.tensor(kernel.transpose(3, 2, 0, 1).copy()),
                    "bias": torch.tensor(bias),
                }
            )
            self.convs.append(conv)
        self.heads = nn.ParameterList(
            torch.tensor(np.array(params[f"head_{stage}"])) for stage in range(len(_VGG_TAPS))
        )
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))
        self.requires_grad_(False)

    def forward(self, image: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """The mean distance of pairs of [b, 3, height, width]."""
        with torch.no_grad():
            wanted = self._features(image)
        distance = 0.0
        for a, b, head in zip(wanted, self._features(other), self.heads):
            difference = (F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)) ** 2
            distance += (difference * head.reshape(1, -1, 1, 1)).sum(dim=1).mean(dim=(1, 2))
        return distance.mean()

    def _features(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, features = (x - self.shift) / self.scale, []
        for index, conv in enumerate(self.convs):
            x = F.relu(conv(F.max_pool2d(x, 2) if index in _VGG_POOLS else x))
            if index in _VGG_TAPS:
                features.append(x.float())
        return features


class Trainer:
    """The training step of `training.step`, of a state of its own.

    Args:
      model: sizes.
      words: "local_words" and "global_words".
      lpips: parameters of `towers.vgg`, or None.
      weights: of the losses, and when the game starts.
      k: global words of an image.
      learning_rate: constant.
      perceptual_images: of a batch; None takes all.
      dtype: "float32", or "bfloat16" for autocast.
      compiled: whether `torch.compile` gets networks and losses.
      step: steps done.
      seed: of the weights.
      device: where.
    """

    def __init__(
        self,
        tokenizer: V2L,
        words: Mapping[str, np.ndarray],
        lpips: Mapping[str, Any] | None,
        weights: LossWeights,
        *,
        learning_rate: float,
        perceptual_images: int | None = None,
        dtype: str = "float32",
        compiled: bool = False,
        step: int = 0,
        seed: int = 0,
        device: str = "cpu",
    ):
        torch.manual_seed(seed)
        self._device, self._weights, self._k, self._perceptual_images, self._step = (
            device,
            weights,
            tokenizer.global_tokens,
            perceptual_images,
            step,
        )
        self._quantizer_weight = tokenizer.quantizer_weight
        self._autocast = dtype != "float32"
        self.tokenizer = self._placed(
            Tokenizer(tokenizer.network, words["local_words"], words["global_words"])
        )
        self.discriminator = self._placed(Discriminator())
        self._lpips = self._placed(LPIPS(lpips)) if lpips is not None else None
        options: dict[str, Any] = {
            "lr": learning_rate,
            "betas": (0.5, 0.9),
            "eps": 1e-7,
            "fused": True,
        }
        self._adam = torch.optim.Adam(self.tokenizer.parameters(), **options)
        self._disc_adam = torch.optim.Adam(self.discriminator.parameters(), **options)
        compile_: Callable = torch.compile if compiled else lambda function: function
        self._reconstruct, self._tokenize = (
            compile_(self.tokenizer.reconstruct),
            compile_(self.tokenizer.tokenize),
        )
        self._score, self._image_loss = (
            compile_(self.discriminator.forward),
            compile_(self._images_differ),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All trained weights by their published names, on the host."""
        parts = {"": self.tokenizer, "discriminator.": self.discriminator}
        return {
            prefix + name: tensor.cpu().numpy().copy()
            for prefix, part in parts.items()
            for name, tensor in part.state_dict().items()
        }

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """A batch on the device; images [b, h, w, 3] become NCHW, channels last in memory."""
        image = torch.tensor(batch["image"]).permute(0, 3, 1, 2)
        return {
            "image": image.to(self._device),
            "image_embedding": torch.tensor(batch["image_embedding"]).to(self._device),
        }

    def train(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One step: both updates; the losses, on the device."""
        image, weights = batch["image"], self._weights
        playing = self._step > weights.disc_start
        with self._precision():
            global_ids = self.tokenizer.global_ids(batch["image_embedding"], self._k)
            fake, last, quantizer_loss = self._reconstruct(image, global_ids)
        leaf = fake.detach().requires_grad_()
        with self._precision():
            image_loss, reconstruction_loss, perceptual_loss = self._image_loss(image, leaf)
        (gradient,) = torch.autograd.grad(image_loss, leaf)
        loss = image_loss.detach() + self._quantizer_weight * quantizer_loss.detach()
        metrics = {
            "reconstruction_loss": reconstruction_loss,
            "perceptual_loss": perceptual_loss,
            "quantizer_loss": quantizer_loss,
        }
        if playing:
            generator_loss, weight, adversarial_gradient = self._play(leaf, last, gradient)
            loss, gradient = (
                loss + weight * generator_loss,
                gradient + weight * adversarial_gradient,
            )
            metrics |= {"generator_loss": generator_loss, "adaptive_weight": weight}
        self._adam.zero_grad(set_to_none=True)
        torch.autograd.backward((fake, self._quantizer_weight * quantizer_loss), (gradient, None))
        self._adam.step()
        if playing:
            metrics["discriminator_loss"] = self._train_discriminator(image, global_ids)
        self._step += 1
        return {"loss": loss} | {name: value.detach() for name, value in metrics.items()}

    def tokenize(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Global and local words of a batch."""
        with torch.inference_mode(), self._precision():
            return self._tokenize(batch["image"], batch["image_embedding"], self._k)

    def wait(self) -> None:
        """Until the device is done."""
        if self._device != "cpu":
            torch.cuda.synchronize()

    def _placed(self, module: nn.Module) -> nn.Module:
        return module.to(self._device, memory_format=torch.channels_last)

    def _precision(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self._device, torch.bfloat16, enabled=self._autocast)

    def _images_differ(
        self, image: torch.Tensor, fake: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        reconstruction = (image - fake).abs().mean()
        perceptual = torch.zeros((), device=fake.device)
        if self._lpips is not None:
            some = slice(self._perceptual_images)
            perceptual = self._lpips(image[some], fake[some])
        return reconstruction + self._weights.perceptual * perceptual, reconstruction, perceptual

    def _play(
        self, fake: torch.Tensor, last: torch.Tensor, image_gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.discriminator.requires_grad_(False)
        with self._precision():
            loss = -self._score(fake).mean()
        (gradient,) = torch.autograd.grad(loss, fake)
        self.discriminator.requires_grad_(True)
        kernel = self.tokenizer.decoder.conv_out.weight
        norms = []
        for at_image in (image_gradient, gradient):
            at_kernel = torch.nn.grad.conv2d_weight(
                last.detach().float(), kernel.shape, at_image, padding=1
            )
            norms.append(at_kernel.norm())
        weight = self._weights.adversarial * (norms[0] / (norms[1] + 1e-4)).clamp(0.0, 1e4)
        return loss.detach(), weight, gradient

    def _train_discriminator(self, image: torch.Tensor, global_ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), self._precision():
            fake = self._reconstruct(image, global_ids)[0]
        with self._precision():
            real_logits, fake_logits = self._score(image), self._score(fake)
        loss = 0.5 * (F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean())
        self._disc_adam.zero_grad(set_to_none=True)
        loss.backward()
        self._disc_adam.step()
        return loss


def flax_params(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tokenizer's "params" and the discriminator's variables from `Trainer.arrays`."""
    paths = {name: parameter_path(name) for name in arrays}
    params = unflatten_dict(
        {path: to_flax_layout(arrays[name]) for name, path in paths.items() if path is not None}
    )
    return params, discriminator_from_reference(arrays)[1]
