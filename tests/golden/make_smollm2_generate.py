"""Writes smollm2_generate.json: 210 varied prompts and what Hugging Face `generate` answers in
float32, greedily.

python -m tests.golden.make_smollm2_generate
    (ten minutes; make test-parity installs what it needs)
"""

import json
import pathlib
import pydoc_data.topics

import numpy as np

from tests.huggingface_smollm2 import greedy_tokens, load_peer
from v2l_jax.assets import fetch as assets
from v2l_jax.llm.text_tokenizers import TextTokenizer, load_text_tokenizer
from v2l_jax.progress import progress_bar

NEW_TOKENS = 16
MAX_LENGTH = 300
_WORDS = [
    "cat",
    "dog",
    "kitten",
    "puppy",
    "pizza",
    "cheese",
    "steak",
    "sushi",
    "lion",
    "tiger",
    "truck",
    "bicycle",
    "castle",
    "violin",
    "teapot",
    "rabbit",
    "lemon",
    "broom",
    "candle",
    "whale",
    "harbor",
    "meadow",
    "goldfish",
    "espresso",
    "backpack",
    "parachute",
    "lighthouse",
    "orange",
    "hammer",
    "pretzel",
]


def few_shot(rng: np.random.Generator, tokenizer: TextTokenizer) -> list[int]:
    """Words of made-up images and their class names, asked with and without the induction."""
    ways, shots, words = rng.integers(2, 6), rng.integers(1, 4), rng.integers(3, 9)
    names = rng.choice(_WORDS, ways, replace=False)
    show = lambda: " ".join(rng.choice(_WORDS, words))
    induction = (
        "For each of the following input output pairs, output is one of ["
        + " or ".join(f"'{n}'" for n in sorted(names))
        + "]\n"
    )
    examples = [
        f"###\nInput: < {show()} >\nOutput: {name}\n" for _ in range(shots) for name in names
    ]
    return tokenizer.encode_prompt(
        induction * int(rng.integers(2)) + "".join(examples) + f"###\nInput: < {show()} >\nOutput:"
    )


def denoising(rng: np.random.Generator, tokenizer: TextTokenizer) -> list[int]:
    """The published window prompt over ids of the whole vocabulary: examples of n tokens → 2
    tokens.
    """
    begin, middle = tokenizer.encode("###\nInput: < "), tokenizer.encode(" >\nOutput: ")
    shown, few = rng.choice([2, 16]), rng.integers(3, 11)
    base = rng.integers(17, tokenizer.vocab_size, shown + 2)
    prompt = tokenizer.encode_prompt(
        "Learning a new language and predict the 2 tokens following the examples.\n"
    )
    for rate in np.linspace(0.5, 0.23, few):
        ids = np.where(
            rng.random(len(base)) < rate, rng.integers(17, tokenizer.vocab_size, len(base)), base
        ).tolist()
        prompt += begin + ids[:shown] + middle + ids[shown:] + tokenizer.encode("\n")
    return prompt + begin + base[:shown].tolist() + middle


def plain_text(rng: np.random.Generator, tokenizer: TextTokenizer) -> list[int]:
    """A stretch of Python's reference manual."""
    topics = pydoc_data.topics.topics
    text = topics[sorted(topics)[rng.integers(len(topics))]]
    ids = tokenizer.encode(text)
    length = int(np.exp(rng.uniform(np.log(5), np.log(MAX_LENGTH))))
    start = int(rng.integers(max(1, len(ids) - length)))
    return ids[start : start + length]


def question(rng: np.random.Generator, tokenizer: TextTokenizer) -> list[int]:
    """Questions about made-up images, after a few answered ones."""
    ask = lambda: (
        f"Condition: {' '.join(rng.choice(_WORDS, 6))}. Question: what is beside the "
        f"{rng.choice(_WORDS)}? Answer:"
    )
    return tokenizer.encode_prompt(
        "".join(f"{ask()} {rng.choice(_WORDS)}\n" for _ in range(rng.integers(6))) + ask()
    )


def random_ids(rng: np.random.Generator, tokenizer: TextTokenizer) -> list[int]:
    """Any ids at all."""
    return rng.integers(0, tokenizer.vocab_size, rng.integers(5, MAX_LENGTH + 1)).tolist()


COUNTS = {few_shot: 60, denoising: 50, plain_text: 60, question: 30, random_ids: 10}


def main() -> None:
    """Draws the prompts, asks the peer, writes the file."""
    path = assets.fetch("smollm2-135m-instruct")
    tokenizer, rng = load_text_tokenizer(path), np.random.default_rng(0)
    prompts = [
        (kind.__name__, kind(rng, tokenizer)[:MAX_LENGTH])
        for kind, count in COUNTS.items()
        for _ in range(count)
    ]
    peer = load_peer(path)
    cases = []
    for kind, prompt in progress_bar(prompts, "asking the peer", "prompt"):
        new, lead = greedy_tokens(peer, prompt, NEW_TOKENS)
        cases.append({"kind": kind, "prompt": prompt, "new": new, "lead": float(f"{lead:.3g}")})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    pathlib.Path(__file__).with_name("smollm2_generate.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
