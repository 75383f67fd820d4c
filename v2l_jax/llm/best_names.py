"""The likeliest of many names after a prompt, exactly, without scoring every name."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from v2l_jax.llm.engine import LLMEngine, TokenIds

_FIRST = 8


@dataclasses.dataclass(frozen=True)
class BestNames:
    """The best names of each prompt.

    Attributes:
      names: their numbers, best first.
      scores: theirs.
      scored: names whose whole likelihood was computed, of all prompts together.
    """

    names: Int[np.ndarray, "prompts best"]
    scores: Float[np.ndarray, "prompts best"]
    scored: int


def best_names(
    engine: LLMEngine,
    prompts: Sequence[TokenIds],
    names: Sequence[TokenIds],
    count: int,
    prior: Float[np.ndarray, " names"] | None = None,
    per_token: bool = False,
    description: str = "naming",
) -> BestNames:
    """The `count` names with the highest log-likelihood, as scoring all of them would find.

    The first tokens of all names are a trie's first level; one forward pass of the prompt gives
    their log-likelihoods, each of which bounds the names that begin so, because further tokens
    only make a name less likely. Names are scored whole in the order of their bounds, until
    `count` of them are above the bounds of all others.

    Args:
      engine: the language model.
      prompts: token ids.
      names: different token ids of the names, what ends a name included: without it "crane" would
        always beat "crane bird".
      count: names wanted; at most as many as there are.
      prior: is subtracted from each name's log-likelihood (calibration).
      per_token: divide by the name's tokens.
      description: for the progress bar.

    Raises:
      DataError: a prompt or name is empty, or too long for the model's context.
    """
    count = min(count, len(names))
    number: dict[tuple[int, ...], int] = {}
    place = [number.setdefault(tuple(prompt), len(number)) for prompt in prompts]
    if len(number) < len(prompts):  # equal prompts, such as those without an image, are asked once
        once = best_names(engine, list(number), names, count, prior, per_token, description)
        return BestNames(once.names[place], once.scores[place], once.scored)
    size = max(_FIRST, count)
    lengths = np.asarray([len(name) if per_token else 1 for name in names], np.float64)
    before = np.zeros(len(names)) if prior is None else np.asarray(prior, np.float64)
    bounds = np.zeros((len(prompts), len(names)))
    if len(names) > size:  # else all are scored anyway
        first = sorted({name[0] for name in names})
        column = np.searchsorted(first, [name[0] for name in names])
        each = [[(token,) for token in first]] * len(prompts)
        begin = engine.score_continuations(prompts, each, description)
        bounds = (np.asarray(begin, np.float64)[:, column] - before) / lengths
    order = np.argsort(-bounds, axis=1, kind="stable")
    scores = np.full(bounds.shape, -np.inf)
    done = np.zeros(len(prompts), np.int64)
    open_prompts = np.arange(len(prompts))
    while len(open_prompts):
        ahead = {p: order[p, done[p] : done[p] + size] for p in open_prompts.tolist()}
        found = engine.score_continuations(
            [prompts[p] for p in ahead], [[names[i] for i in some] for some in ahead.values()],
            description,
        )  # fmt: skip
        for (p, some), values in zip(ahead.items(), found, strict=True):
            scores[p, some] = (values - before[some]) / lengths[some]
            done[p] += len(some)
        left = [
            p
            for p in open_prompts
            if done[p] < len(names)
            and bounds[p, order[p, done[p]]] > np.partition(scores[p], -count)[-count]
        ]
        open_prompts, size = np.asarray(left, np.int64), 2 * size
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return BestNames(best, np.take_along_axis(scores, best, axis=1), int(done.sum()))
