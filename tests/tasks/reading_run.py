"""A run over real photos whose language model is a made-up reader, and whose words name the photos'
classes.
"""

import re
import types

import numpy as np

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.jobs import codebook, evaluate
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.run import features, loading

WORDS = {
    "pizza": (" pizza", "Pizza", " pizzas", " mozzarella", " pepperoni", " crust"),
    "steak": (" steak", "Steak", " steaks", " beef", " sirloin", " meat"),
    "sushi": (" sushi", "Sushi", " salmon", " seaweed", " sashimi", " Japanese"),
}


class Reader(LLMEngine):
    """Answers with the class of the shot that shares the most words with the query; the first of
    equals.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.model = types.SimpleNamespace(
            config=types.SimpleNamespace(context_length=8192, vocab_size=49152)
        )

    def _answer(self, prompt):
        *shots, query = re.findall(r"Input: < (.*?) >\nOutput:(.*)", self.tokenizer.decode(prompt))
        shared = [len(set(words.split()) & set(query[0].split())) for words, _ in shots]
        return shots[shared.index(max(shared))][1]

    def score_continuations(self, prompts, candidates, description):
        names = [[self.tokenizer.decode(ids) for ids in some] for some in candidates]
        return [
            np.array([-float(name != self._answer(p)) for name in some])
            for p, some in zip(prompts, names, strict=True)
        ]

    def choose(self, prompts, candidates, end_id, description):
        return np.array(
            [
                np.argmax(scores)
                for scores in self.score_continuations(prompts, candidates, description)
            ]
        )

    def generate(self, prompts, max_new_tokens, *, allowed, description):
        written = [self.tokenizer.encode(self._answer(prompt)) for prompt in prompts]
        assert all(
            i in step
            for ids, steps in zip(written, allowed, strict=True)
            for i, step in zip(ids, steps, strict=False)
        )
        return written


class ReadingModel(loading.LanguageModel):
    def __init__(self, tokenizer):
        object.__setattr__(self, "tokenizer", tokenizer)

    def engine(self, mesh, token_budget):
        return Reader(self.tokenizer)


def reading_run(config, folder, monkeypatch):
    """A run whose photos lie where their class's words lie, and whose language model is the
    reader.
    """
    tokenizer = loading.text_tokenizer(config)
    monkeypatch.setattr(loading, "language_model", lambda config: ReadingModel(tokenizer))
    rng = np.random.default_rng(0)
    texts = tuple(text for group in WORDS.values() for text in group)
    embeddings = (np.repeat(np.eye(3), 6, axis=0) + 0.1 * rng.standard_normal((18, 3))).astype(
        np.float32
    )
    ids = tuple(tuple(tokenizer.encode(text)) for text in texts)
    book = Codebook(embeddings, texts, ids, "made up", tokenizer.fingerprint)
    book.save(codebook.global_path(folder))
    book.save(codebook.candidates_path(folder))

    def vectors(config, workdir, name, source):
        classes = [
            list(WORDS).index(next(c for c in WORDS if f"/{c}/" in source[i]["path"]))
            for i in range(len(source))
        ]
        noisy = np.eye(3)[classes] + 0.05 * np.random.default_rng(1).standard_normal(
            (len(source), 3)
        )
        return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)

    monkeypatch.setattr(features, "cached", vectors)
    return evaluate.open_run(config, folder)
