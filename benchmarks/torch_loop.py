"""The peer, the published way: Hugging Face `generate` in torch, batch 1, every prompt prefilled by
itself.
"""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from v2l_jax.llm.llama_config import LlamaConfig


class TorchLoop:
    """A language model in torch that answers one prompt after the other, greedily.

    Attributes:
      model: a `transformers.LlamaForCausalLM`.
    """

    def __init__(
        self, config: LlamaConfig, dtype: str, rope_theta: float = 10_000.0, device: str = "cpu"
    ):
        """Random weights; `load_gguf` replaces them."""
        import torch
        import transformers

        sizes = transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
            tie_word_embeddings=config.tied_embeddings,
            dtype=dtype,
        )
        self._torch, self._device = torch, torch.device(device)
        torch.manual_seed(0)
        with self._device:
            self.model = transformers.AutoModelForCausalLM.from_config(sizes).eval()

    def load_gguf(self, path: str) -> None:
        """Takes the weights of a GGUF file, exact in float32."""
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=self.model)[
            "tensors"
        ]
        missing = self.model.load_state_dict(tensors, strict=False).missing_keys
        if missing != ["lm_head.weight"]:
            raise ValueError(f"{path} lacks {missing}")
        self.model.tie_weights()

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights by their Hugging Face names, on the host."""
        return {name: self._numpy(tensor) for name, tensor in self.model.state_dict().items()}

    def _numpy(self, tensor: Any) -> np.ndarray:
        if tensor.dtype == self._torch.bfloat16:
            return tensor.cpu().view(self._torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.cpu().numpy()

    def generate(
        self, prompt: Sequence[int], new_tokens: int, mask: Sequence[Sequence[int]] = ()
    ) -> list[int]:
        """Exactly `new_tokens` greedy tokens; step i may only write a token of `mask[i]`, later
        ones any.
        """
        torch = self._torch
        ids = torch.tensor([list(prompt)], device=self._device)
        with torch.inference_mode():
            answer = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new_tokens,
                eos_token_id=None,
                pad_token_id=0,
                logits_processor=[_Mask(mask, len(prompt))] if mask else None,
            )
        return answer[0, len(prompt) :].tolist()


class _Mask:
    """The published per-position mask, as a Hugging Face logits processor."""

    def __init__(self, mask: Sequence[Sequence[int]], prompt_length: int):
        self._mask, self._prompt_length = mask, prompt_length

    def __call__(self, ids: Any, scores: Any) -> Any:
        step = ids.shape[1] - self._prompt_length
        if step >= len(self._mask):
            return scores
        masked = scores.new_full(scores.shape, -float("inf"))
        masked[:, self._mask[step]] = scores[:, self._mask[step]]
        return masked
