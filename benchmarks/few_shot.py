"""Few-shot classification: episodes a second, ours beside a batch-1 Hugging Face loop on the same prompts, in one run.

python -m benchmarks.few_shot [--episodes=40]           (make test-parity installs what the peer needs)

Prompts are 2-way 1-shot ones of real SmolLM2 words. Both read the class from the likelihood of the class names' tokens, without
calibration, and must agree. The bound is the time of the prompts' matrix products at the machine's measured peak.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from v2l_jax.data.episodes import Episode, draw_episodes
from v2l_jax.incontext.classification import Scoring, classify, make_prompts
from v2l_jax.incontext.decoding import Decoder
from v2l_jax.incontext.prompts import answer_text
from v2l_jax.jobs.workdir import environment
from v2l_jax.towers.llama import Llama, load_llama
from v2l_jax.weights import assets
from v2l_jax.weights.text_tokenizers import TextTokenizer, load_text_tokenizer

_EPISODES = flags.DEFINE_integer("episodes", 40, "Episodes timed; each row is the best of --repeats.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed repetitions, ours and the peer's in turn.")
_ASSET = "smollm2-135m-instruct"
_WORDS = {
    "cat": " cat kitten tabby feline whiskers".split(" "),
    "dog": " dog puppy hound terrier leash".split(" "),
    "pizza": " pizza cheese crust pepperoni dough".split(" "),
    "steak": " steak beef meat grill plate".split(" "),
    "sushi": " sushi rice roll salmon seaweed".split(" "),
}


def make_episodes(count: int) -> tuple[tuple[Episode, ...], list[list[str]]]:
    """2-way 1-shot episodes over 60 made-up images a class, and each image's five words in an order of its own."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(_WORDS)), 60)
    names = sorted(_WORDS)
    words = [[f" {word}" for word in rng.permutation(_WORDS[names[label]][1:])] for label in labels]
    return draw_episodes(labels, names, 2, 1, count, seed=0), words


def matmul_peak(dtype: str, size: int = 2048) -> float:
    """Measured multiply-adds × 2 a second of a square matrix product with float32 result."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    return 2 * size**3 / best_time(lambda: product(a).block_until_ready(), 5)


def best_time(call, repeats: int) -> float:
    """The shortest of several timed calls, after one that is not counted, in seconds."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


class HuggingFaceLoop:
    """The peer: float32 torch, one prompt at a time, one forward pass with the last position's logits only."""

    def __init__(self, tokenizer: TextTokenizer):
        import torch
        import transformers
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        config, _ = load_llama(assets.fetch(_ASSET))
        sizes = transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            tie_word_embeddings=config.tied_embeddings,
        )
        self.model = transformers.LlamaForCausalLM(sizes).float().eval()
        tensors = load_gguf_checkpoint(str(assets.fetch(_ASSET)), return_tensors=True, model_to_load=self.model)["tensors"]
        assert self.model.load_state_dict(tensors, strict=False).missing_keys == ["lm_head.weight"]
        self.model.tie_weights()
        self.torch, self.tokenizer = torch, tokenizer

    def classify(self, prompts: list[str], episodes: tuple[Episode, ...]) -> list[int]:
        """Index of the class whose first token is likeliest."""
        chosen = []
        with self.torch.inference_mode():
            for prompt, episode in zip(prompts, episodes, strict=True):
                ids = self.torch.tensor([self.tokenizer.encode_prompt(prompt)])
                logits = self.model(ids, logits_to_keep=1).logits[0, -1]
                first = [self.tokenizer.encode(answer_text(name))[0] for name in episode.class_names]
                chosen.append(int(logits[first].argmax()))
        return chosen


def matmul_flops(prompt_tokens: int, count: int, params: dict, embedding: int) -> float:
    """Multiply-adds × 2 of all projections for every prompt token, and of the logits at one position a prompt."""
    matrices = sum(leaf.size for name, leaf in params["layers"].items() if not name.endswith(("norm", "bias")))
    return 2.0 * matrices * prompt_tokens + 2.0 * embedding * count


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    path = assets.fetch(_ASSET)
    tokenizer = load_text_tokenizer(path)
    episodes, words = make_episodes(_EPISODES.value)
    scoring = Scoring(calibrate=False)
    prompts = [str(prompt) for prompt in make_prompts(episodes, words, scoring)]
    tokens = sum(len(tokenizer.encode_prompt(prompt)) for prompt in prompts)
    peer = HuggingFaceLoop(tokenizer)
    answers = np.asarray(peer.classify(prompts, episodes))
    peer_time = best_time(lambda: peer.classify(prompts, episodes), _REPEATS.value)
    print(f"\n{environment()['cpu']}, {environment()['cpu_cores']} cores; jax on {environment()['devices']}")
    print(f"SmolLM2-135M, 2-way 1-shot, {len(episodes)} episodes, {tokens / len(episodes):.0f} tokens a prompt\n")
    print("| | episodes/s | over the peer | GF/s of prompt tokens | measured matmul peak, GF/s | fraction | same answers |")
    print("|---|---|---|---|---|---|---|")
    for dtype in ("float32", "bfloat16"):
        config, params = load_llama(path, jnp.dtype(dtype))
        decoder = Decoder(Llama(config, jnp.dtype(dtype)), params)
        flops = matmul_flops(tokens, len(episodes), params, config.vocab_size * config.hidden_size)
        if dtype == "float32":
            rate = flops / peer_time / 1e9
            peak = matmul_peak(dtype) / 1e9
            print(f"| Hugging Face loop, batch 1, float32 | {len(episodes) / peer_time:.1f} | 1.00 | {rate:.0f} | {peak:.0f} | {rate / peak:.2f} | |")
        ours = lambda: classify(decoder, tokenizer, episodes, words, scoring)  # noqa: B023, E731
        agreement = np.mean(ours() == answers)
        seconds, peak = best_time(ours, _REPEATS.value), matmul_peak(dtype) / 1e9
        rate = flops / seconds / 1e9
        row = f"| ours, {dtype} | {len(episodes) / seconds:.1f} | {peer_time / seconds:.2f} | {rate:.0f} | {peak:.0f} | {rate / peak:.2f} |"
        print(f"{row} {agreement:.1%} |")
    print("\nA shared prefix is computed once, so GF/s counts work that ours skips: it may exceed what the cores did.")


if __name__ == "__main__":
    app.run(main)
