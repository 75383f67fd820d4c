"""One engine for several processes: the first asks, all answer.

The first process runs the tasks as it would alone. Each call of its `SharedEngine` is divided over
all processes, which have the same model; the others wait in `serve`. Messages are pickles between
processes of one job, which wait for each other as long as it takes.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from v2l_jax.errors import DataError
from v2l_jax.llm.engine import LLMEngine, TokenIds
from v2l_jax.llm.grammar import Grammar
from v2l_jax.llm.prompt_batches import PrefixCache
from v2l_jax.parallel.messages import gathered, told
from v2l_jax.parallel.processes import is_primary

Arguments = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Request:
    """What every process is told: of which model, new vectors of slots, and a call for each
    process, with the arguments of its part; None has nothing to do.
    """

    model: str
    slots: list[bytes]
    call: str
    parts: list[Arguments | None]


class SharedEngine(LLMEngine):
    """The first process's engine; every call that computes is divided over all processes.

    Args:
      processes: how many.
      name: of the model, by which the others know what to ask.
      *arguments, **options: of `LLMEngine`.
    """

    def __init__(self, *arguments: Any, processes: int, name: str = "", **options: Any):
        super().__init__(*arguments, **options)
        self._answering = _Answering(super())
        self._processes, self._name = processes, name
        self._slots_told = 0
        self._numbers = itertools.count()

    def score_continuations(
        self,
        prompts: Sequence[TokenIds],
        candidates: Sequence[Sequence[TokenIds]],
        description: str = "scoring",
    ) -> list[Float[np.ndarray, " candidates"]]:
        """As `LLMEngine.score_continuations`."""
        return self._divided(
            "score_continuations", {"prompts": prompts, "candidates": candidates},
            {"description": description},
        )  # fmt: skip

    def choose(
        self,
        prompts: Sequence[TokenIds],
        candidates: Sequence[Sequence[TokenIds]],
        end_id: int | None = None,
        description: str = "choosing",
    ) -> Int[np.ndarray, " prompts"]:
        """As `LLMEngine.choose`."""
        chosen = self._divided(
            "choose", {"prompts": prompts, "candidates": candidates},
            {"end_id": end_id, "description": description},
        )  # fmt: skip
        return np.asarray(chosen, np.int64)

    def generate(
        self,
        prompts: Sequence[TokenIds],
        max_new_tokens: int,
        *,
        allowed: Sequence[Sequence[Sequence[int]]] | None = None,
        prefix_cache: PrefixCache | None = None,
        **rules: Any,
    ) -> list[list[int]]:
        """As `LLMEngine.generate`."""
        common, owners = {"max_new_tokens": max_new_tokens, **rules}, None
        if prefix_cache is not None:
            common["prefix_cache"] = prefix_cache.cache
            owners = [prefix_cache.rows[p.prefix] for p in prefix_cache.cut(prompts)]
        own = {"prompts": prompts} | ({} if allowed is None else {"allowed": allowed})
        return self._divided("generate", own, common, owners)

    def generate_text(
        self,
        prompts: Sequence[TokenIds],
        max_new_tokens: int,
        *,
        allowed: Sequence[Sequence[Sequence[int]]] | None = None,
        **rules: Any,
    ) -> list[str]:
        """As `LLMEngine.generate_text`."""
        own = {"prompts": prompts} | ({} if allowed is None else {"allowed": allowed})
        return self._divided("generate_text", own, {"max_new_tokens": max_new_tokens, **rules})

    def follow(
        self,
        prompts: Sequence[TokenIds],
        grammar: Grammar,
        max_new_tokens: int,
        description: str = "writing",
    ) -> list[tuple[list[int], Float[np.ndarray, " new"]]]:
        """As `LLMEngine.follow`."""
        common = {"grammar": grammar, "max_new_tokens": max_new_tokens, "description": description}
        return self._divided("follow", {"prompts": prompts}, common)

    def cache_prefixes(self, prefixes: Sequence[TokenIds]) -> PrefixCache:
        """As `LLMEngine.cache_prefixes`; each process computes its part. The prefixes of the call
        before are forgotten.
        """
        self.check_lengths(prefixes, 0)
        distinct, number = list(dict.fromkeys(map(tuple, prefixes))), next(self._numbers)
        shares = _shares(len(distinct), self._processes)
        self._asked(
            "cache_prefixes", [{"number": number, "prefixes": distinct[share]} for share in shares]
        )
        owners = {
            prefix: process for process, share in enumerate(shares) for prefix in distinct[share]
        }
        return PrefixCache(owners, number)

    def _divided(
        self, call: str, own: Arguments, common: Arguments, owners: Sequence[int] | None = None
    ) -> list[Any]:
        """Divides prompts over the processes; returns an answer for each, in order.

        Args:
          call: the engine's method.
          own: arguments with an item for each prompt.
          common: the others.
          owners: which process answers each prompt; None gives each a run of neighbours, which
            share their beginnings.
        """
        count = len(own["prompts"])
        if owners is None:
            shares = _shares(count, self._processes)
            indices = [list(range(count))[share] for share in shares]
        else:
            indices = [
                [i for i, owner in enumerate(owners) if owner == process]
                for process in range(self._processes)
            ]
        parts = [
            {name: [values[i] for i in mine] for name, values in own.items()} | common
            if mine
            else None
            for mine in indices
        ]
        answers: list[Any] = [None] * count
        for mine, found in zip(indices, self._asked(call, parts), strict=True):
            for i, answer in zip(mine, found or (), strict=True):
                answers[i] = answer
        return answers

    def _asked(self, call: str, parts: list[Arguments | None]) -> list[Any]:
        """Tells all processes what to do; returns what each answers.

        Raises:
          DataError: what a process met.
        """
        slots = list(self._slots)[self._slots_told :]
        self._slots_told = len(self._slots)
        request = told(_Request(self._name, slots, call, parts))
        answers = gathered(self._answering.part(request, 0))
        for answer in answers:
            if isinstance(answer, DataError):
                raise answer
        return answers


class _Answering:
    """One process's part in answering.

    Attributes:
      engine: its own.
    """

    def __init__(self, engine: Any):
        self.engine = engine
        self._prefixes: dict[int, PrefixCache] = {}

    def part(self, request: _Request, process: int) -> Any:
        """What a process answers: a list, None, or the DataError it met."""
        arguments = request.parts[process]
        if arguments is None:
            return None
        try:
            return self._answered(request.call, dict(arguments))
        except DataError as error:
            return error

    def _answered(self, call: str, arguments: dict[str, Any]) -> Any:
        if call == "cache_prefixes":
            self._prefixes.clear()
            if arguments["prefixes"]:
                cache = self.engine.cache_prefixes(arguments["prefixes"])
                self._prefixes[arguments["number"]] = cache
            return None
        if arguments.get("prefix_cache") is not None:
            arguments["prefix_cache"] = self._prefixes[arguments["prefix_cache"]]
        return list(getattr(self.engine, call)(**arguments))


def serve(engine: Callable[[str], LLMEngine]) -> None:
    """Answers the first process's `SharedEngine`s until it has `finished`.

    Args:
      engine: this process's, with the model of that name; asked for once, when it has something to
        do.
    """
    answering: dict[str, _Answering] = {}
    while (request := told(None)) is not None:
        if request.model not in answering:
            answering[request.model] = _Answering(engine(request.model))
        one = answering[request.model]
        if request.slots:
            one.engine.slot_ids(np.stack([np.frombuffer(row, np.float32) for row in request.slots]))
        gathered(one.part(request, jax.process_index()))


def finished() -> None:
    """Ends `serve` in the other processes."""
    assert is_primary()
    told(None)


def _shares(count: int, processes: int) -> list[slice]:
    """Runs of neighbours, as equal as can be."""
    ends = [count * process // processes for process in range(processes + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]
