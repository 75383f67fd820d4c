"""The fine-tuning benchmark: both take the same step on the same weights."""

import numpy as np
import pytest

from benchmarks import finetune
from tests.tiny_models import sentencepiece, write_llm
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.merged import write_merged
from v2l_jax.llm.text_tokenizers import load_text_tokenizer


def test_losses_of_both_agree(torch, tmp_path):
    pytest.importorskip("peft", reason="peft is not installed: make test-parity runs this test")
    base = write_llm(tmp_path / "base", "llama", sentencepiece(360), context=64)
    config, params = load_llama(base)
    rows = np.random.default_rng(0).normal(size=(5, config.hidden_size)).astype(np.float32)
    batch = finetune.make_batch(config.vocab_size, 5, 4, 12)
    assert (batch["tokens"][:, :6] >= config.vocab_size).all()
    home, tokenizer = tmp_path / "merged", load_text_tokenizer(base)
    write_merged(home, None, config, params, finetune.LORA, {}, rows, tokenizer, ())
    steps = {
        "ours": finetune.our_step(Llama(config), params, rows, batch),
        "peer": finetune.peer_step(home, config.vocab_size, batch),
    }
    found = finetune.compare(steps, 1)
    # ours has no logits of the new words, which the peer's are 0
    assert found["ours"][1] == pytest.approx(found["peer"][1], rel=0.02)
    assert all(seconds > 0 for seconds, _ in found.values())
