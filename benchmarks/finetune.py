"""A LoRA training step with new rows of the embedding: ours, and Hugging Face's model with peft in
torch, on the same weights and batch, with the bound, all measured in one run.

python -m benchmarks.finetune [--llm=smollm2-135m-instruct --rows=8 --length=28 --words=256]

`pip install torch peft` installs the peer. Both take one AdamW step of LoRA on the attention's four
projections, of rank 16, and of the new rows, in float32. The bound is the time of the step's matrix
products at the machine's measured peak, without what is computed a second time to save memory.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from benchmarks import machine
from v2l_jax.llm.adapter_step import adapter_optimizer, initial_state, make_adapter_step
from v2l_jax.llm.costs import training_flops
from v2l_jax.llm.llama import Llama, load_llama
from v2l_jax.llm.lora import Lora
from v2l_jax.llm.merged import write_merged
from v2l_jax.llm.new_rows import mean_resizing
from v2l_jax.llm.text_tokenizers import load_text_tokenizer
from v2l_jax.ops import cpu_settings
from v2l_jax.run.loading import locate

LORA = Lora(16, 32.0, ("q_proj", "k_proj", "v_proj", "o_proj"))
TARGETS = 2
Step = Callable[[], float]
"""Takes a training step; returns its loss."""


def make_batch(vocab_size: int, words: int, rows: int, length: int) -> dict[str, np.ndarray]:
    """Texts whose first half are new words and whose last tokens count."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, vocab_size, (rows, length)).astype(np.int32)
    tokens[:, : length // 2] = rng.integers(vocab_size, vocab_size + words, (rows, length // 2))
    targets = np.tile(np.arange(length - TARGETS, length, dtype=np.int32), (rows, 1))
    return {"tokens": tokens, "targets": targets}


def our_step(model: Llama, params: Any, rows: np.ndarray, batch: dict[str, np.ndarray]) -> Step:
    """A step of the finetune job."""
    tx = adapter_optimizer(1e-3, 0, 1000, rows_rate=1e-3)
    step = make_adapter_step(model, LORA, tx)
    kept = [initial_state(jax.random.key(0), model, LORA, tx, rows)]

    def take() -> float:
        kept[0], metrics = step(kept[0], batch, params)
        return float(metrics["loss"])

    return take


def peer_step(folder: pathlib.Path, vocab_size: int, batch: dict[str, np.ndarray]) -> Step:
    """The same of transformers and peft, as their documentation has it."""
    import peft  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    new = list(range(vocab_size, base.config.vocab_size))
    how = peft.LoraConfig(
        r=LORA.rank,
        lora_alpha=int(LORA.alpha),
        target_modules=list(LORA.targets),
        trainable_token_indices={"embed_tokens": new},
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(base, how).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    ids = torch.tensor(batch["tokens"].astype(np.int64))
    labels = torch.full_like(ids, -100)
    labels[:, -TARGETS:] = ids[:, -TARGETS:]

    def take() -> float:
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return float(loss.detach())

    return take


def compare(steps: dict[str, Step], turns: int) -> dict[str, tuple[float, float]]:
    """(fastest seconds of a step, loss of the first) of each, taken in turns."""
    first = {name: step() for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - began)
    return {name: (min(times[name]), first[name]) for name in steps}


def main(arguments: list[str]) -> None:
    """Prints the table."""
    del arguments
    f = flags.FLAGS
    cpu_settings.apply()
    path = locate(f.llm)
    config, params = load_llama(path)
    new = mean_resizing(np.asarray(params["embedding"]), f.words, np.random.default_rng(0))
    batch = make_batch(config.vocab_size, f.words, f.rows, f.length)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_text_tokenizer(path)
        home = pathlib.Path(folder)
        write_merged(home, None, config, params, LORA, {}, new, tokenizer, ())
        peer = peer_step(home, config.vocab_size, batch)
    steps = {"ours": our_step(Llama(config), params, new, batch), "Hugging Face + peft": peer}
    found = compare(steps, f.turns)
    flops = f.rows * training_flops(config, LORA, f.length, TARGETS)
    bound = flops / machine.matmul_peak("float32")
    for name, (seconds, loss) in found.items():
        print(
            f"{name}: {seconds:.3f} s a step ({bound / seconds:.0%} of the bound), loss {loss:.4f}"
        )
    ratio = found["Hugging Face + peft"][0] / found["ours"][0]
    print(f"bound: {bound:.3f} s; ours is {ratio:.2f} times as fast")


if __name__ == "__main__":
    flags.DEFINE_string("llm", "smollm2-135m-instruct", "the language model, plain rotary (GGUF)")
    flags.DEFINE_integer("rows", 8, "texts of a batch")
    flags.DEFINE_integer("length", 28, "tokens of a text")
    flags.DEFINE_integer("words", 256, "new rows of the embedding")
    flags.DEFINE_integer("turns", 3, "steps that are timed of each")
    app.run(main)
