"""The peer of the parity tests: SmolLM2 in transformers' own torch code, and its greedy
`generate`.
"""

import pathlib
from collections.abc import Sequence

import numpy as np


def load_peer(path: pathlib.Path):
    """transformers' LlamaForCausalLM in float32, GGUF weights read by transformers.

    Its `from_pretrained` for GGUF would need accelerate.
    """
    import transformers
    from transformers.initialization import no_init_weights
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=8192, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default",
        "rope_theta": 100000.0},
        tie_word_embeddings=True,
    )  # fmt: skip
    with no_init_weights():
        peer = transformers.LlamaForCausalLM(config).float().eval()
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=peer)
    assert peer.load_state_dict(read["tensors"], strict=False).missing_keys == ["lm_head.weight"]
    peer.tie_weights()
    return peer


def greedy_tokens(peer, prompt: Sequence[int], count: int) -> tuple[list[int], float]:
    """`generate` on one prompt, no end token: the new ids, and the smallest lead of a chosen logit
    over the second best.
    """
    import torch

    ids = torch.tensor([list(prompt)])
    options = dict(max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
    out = peer.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    best = torch.stack(out.logits)[:, 0].topk(2).values.numpy()
    return out.sequences[0, len(prompt) :].tolist(), float(np.min(best[:, 0] - best[:, 1]))
