"""The in-context engine against one prompt at a time through the plain forward pass."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.errors import DataError, V2LError
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.llm.prompt_batches import PrefixCache, bucket_length, plan_batches, share_prefixes
from v2l_jax.llm.stop_strings import StopStrings

CONFIG = LlamaConfig(40, 32, 48, 2, 4, 2, 8, 96, 1e-5, rotary_frequencies(8, 10000.0))


@pytest.fixture(scope="module")
def model():
    return Llama(CONFIG)


@pytest.fixture(scope="module")
def params(model):
    start = model.init(
        jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), jnp.int32)
    )["params"]
    return jax.tree.map(lambda x: x * 8 if x.ndim > 2 else x, start) | {
        name: start[name] * 40 for name in ("embedding", "output")
    }


@pytest.fixture(scope="module")
def engine(model, params):
    return LLMEngine(model, params, token_budget=256)


@pytest.fixture(scope="module")
def log_probs(model, params):
    """Next-token log-probabilities after every token of one sequence."""

    @jax.jit
    def run(tokens):
        hidden, _ = model.apply({"params": params}, tokens[None], jnp.arange(96)[None])
        return jax.nn.log_softmax(model.apply({"params": params}, hidden[0], method="logits"))

    return lambda ids: np.asarray(run(np.pad(np.asarray(ids), (0, 96 - len(ids)))))[: len(ids)]


def _prompts(count=9):
    """Prompts of mixed lengths: two shared beginnings, one unshared; the first is there twice."""
    rng = np.random.default_rng(1)
    begin = [rng.integers(1, 40, 19).tolist(), rng.integers(1, 40, 17).tolist(), []]
    prompts = [
        begin[i % 3] + rng.integers(1, 40, rng.integers(9, 17)).tolist() for i in range(count)
    ]
    return [*prompts, prompts[0]]


def _candidates(prompts, lengths=(1, 3, 2, 2)):
    rng = np.random.default_rng(2)
    return [
        [rng.integers(1, 40, n).tolist() for n in lengths[: 2 + i % 3]] for i in range(len(prompts))
    ]


def _greedy(log_probs, prompt, steps, stop_ids=()):
    new = []
    for _ in range(steps):
        token = int(log_probs(prompt + new)[-1].argmax())
        if token in stop_ids:
            break
        new.append(token)
    return new


@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (1, 3, 2, 2)])
def test_scores_are_the_likelihoods_of_single_forward_passes(engine, log_probs, lengths):
    prompts = _prompts()
    candidates = _candidates(prompts, lengths)
    scores = engine.score_continuations(prompts, candidates)
    for prompt, options, row in zip(prompts, candidates, scores, strict=True):
        expected = []
        for option in options:
            table = log_probs(prompt + option)
            expected.append(
                sum(table[len(prompt) - 1 + j, token] for j, token in enumerate(option))
            )
        assert row.dtype == np.float32
        np.testing.assert_allclose(row, expected, atol=2e-4)


def test_generate_equals_one_prompt_at_a_time(engine, log_probs):
    prompts = _prompts()
    answers = engine.generate(prompts, 6)
    assert answers == [_greedy(log_probs, p, 6) for p in prompts]


def test_cached_prefixes_change_no_answer(engine, log_probs):
    prompts = _prompts()
    prefixes = [p[: n % len(p) or 1] for p, n in zip(prompts, (19, 17, 1, 19, 17, 6, 8, 20, 30, 3))]
    prefixes += [[i] * 3 for i in range(5)]  # that nothing begins with
    cache = engine.cache_prefixes(prefixes)
    assert (
        cache.cache.keys.shape[1] >= len({tuple(p) for p in prefixes}) > 256 // 32
    )  # more than one batch computes
    assert engine.generate(prompts, 6, prefix_cache=cache) == [
        _greedy(log_probs, p, 6) for p in prompts
    ]


def test_only_the_ends_are_computed_behind_cached_prefixes(engine):
    prompts = _prompts()
    cache = engine.cache_prefixes([p[:8] for p in prompts])
    wrong = PrefixCache(cache.rows, cache.cache._replace(values=cache.cache.values + 1))
    assert engine.generate(prompts, 6, prefix_cache=wrong) != engine.generate(
        prompts, 6, prefix_cache=cache
    )


def test_a_prompt_that_no_cached_prefix_begins_is_named(engine):
    cache = engine.cache_prefixes([[1, 2, 3]])
    for prompt in ([1, 2, 4], [1, 2, 3]):  # another beginning; nothing after the prefix
        with pytest.raises(ValueError, match="no cached prefix begins"):
            engine.generate([[1, 2, 3, 4], prompt], 1, prefix_cache=cache)
    with pytest.raises(DataError, match="prompt 1: 97"):
        engine.cache_prefixes([[1], [1] * 97])


def test_generation_ends_at_stop_tokens(engine, log_probs):
    prompts = [p for p in _prompts() if len(p) < 17]
    stop = tuple(_greedy(log_probs, prompts[i], 3)[i] for i in (0, 2))
    expected = [_greedy(log_probs, p, 6, stop) for p in prompts]
    assert engine.generate(prompts, 6, stop_ids=stop) == expected
    assert expected[0] == [] and len(expected[2]) <= 2


def _allowed(prompts, seed=3):
    """Two to four steps a prompt of one to five ids."""
    rng = np.random.default_rng(seed)
    return [
        [
            rng.choice(40, rng.integers(1, 6), replace=False).tolist()
            for _ in range(rng.integers(2, 5))
        ]
        for _ in prompts
    ]


def _masked_greedy(log_probs, prompt, steps):
    new = []
    for ids in steps:
        table = log_probs(prompt + new)[-1]
        new.append(max(sorted(ids), key=lambda t: table[t]))
    return new


def test_each_step_writes_only_what_its_mask_permits(engine, log_probs):
    prompts = _prompts()
    allowed = _allowed(prompts)
    expected = [_masked_greedy(log_probs, p, steps) for p, steps in zip(prompts, allowed)]
    assert engine.generate(prompts, 6, allowed=allowed) == expected
    assert engine.generate(prompts, 2, allowed=allowed) == [new[:2] for new in expected]
    stop = expected[1][1]  # an end token is a token like others, unless it is named
    cut = [new[: new.index(stop)] if stop in new else new for new in expected]
    assert engine.generate(prompts, 6, allowed=allowed, stop_ids=[stop]) == cut != expected


def test_a_common_vocabulary_holds_at_every_step(engine, log_probs):
    prompts = _prompts()
    vocabulary = [5, 3, 8, 21, 30, 11]
    assert engine.generate(prompts, 5, vocabulary=vocabulary) == [
        _masked_greedy(log_probs, p, [vocabulary] * 5) for p in prompts
    ]
    allowed = [[[*ids, 8, 30] for ids in steps] for steps in _allowed(prompts)]
    both = [[[i for i in ids if i in vocabulary] for ids in steps] for steps in allowed]
    expected = [_masked_greedy(log_probs, p, steps) for p, steps in zip(prompts, both)]
    assert engine.generate(prompts, 5, vocabulary=vocabulary, allowed=allowed) == expected


def test_answers_end_before_stop_strings(engine, log_probs):
    """Token i writes one to three of the letters a, b, c, so that stop strings span tokens and
    begin inside them.
    """
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abc"), rng.integers(1, 4))) for _ in range(40)]
    stops = StopStrings.build(texts, ("acba", "ccac"))
    prompts = _prompts(40)
    written = [_greedy(log_probs, p, 8) for p in prompts]
    expected = [
        min(("".join(texts[i] for i in new).partition(s)[0] for s in stops.strings), key=len)
        for new in written
    ]
    assert engine.generate_text(prompts, 8, stop_strings=stops) == expected
    answers = engine.generate(prompts, 8, stop_strings=stops)
    partly = 0
    for new, answer, text in zip(written, answers, expected, strict=True):
        assert answer == new[: len(answer)] and text.startswith("".join(texts[i] for i in answer))
        partly += text != "".join(texts[i] for i in answer)
    assert partly and len({len(a) for a in answers}) > 2


def test_calls_of_equal_shapes_compile_once(model, params):
    """Sequential inpainting: a call for each window, each with all images' prompts of that
    window.
    """
    engine = LLMEngine(model, params, token_budget=256)
    rng = np.random.default_rng(0)
    begin = rng.integers(1, 40, 20).tolist()
    for window in range(8):
        prompts = [begin + rng.integers(1, 40, 30).tolist() for _ in range(11)]
        engine.generate(
            prompts,
            2,
            vocabulary=rng.choice(40, 9 + window, replace=False).tolist(),
            stop_ids=[1, window + 2],
        )
        engine.generate(prompts, 2)
        if window == 0:
            compiled = engine.compilations
    assert engine.compilations == compiled <= 6


def _walk(log_probs, prompt, candidates, end_id):
    """Greedy over allowed tokens, by the definition."""
    written = []
    while True:
        left = [c for c in candidates if c[: len(written)] == written]
        allowed = {c[len(written)] for c in left if len(c) > len(written)} | (
            {end_id} if written in left else set()
        )
        if allowed == {end_id}:
            return candidates.index(written)
        table = log_probs(prompt + written)[-1]
        token = max(sorted(allowed), key=lambda t: table[t])
        if token == end_id:
            return candidates.index(written)
        written = [*written, token]


CLASS_SETS = {
    "first tokens differ": [[3, 4], [5], [6, 7, 8]],
    "common first token": [[9, 3], [9, 4, 5], [9, 6]],
    "late decision": [[3, 4, 5, 6], [3, 4, 5, 7], [8], [3, 9]],
    "one begins another": [[3], [3, 4], [5, 6]],
}


def test_choice_is_greedy_decoding_over_allowed_tokens(engine, log_probs):
    prompts = _prompts()
    sets = list(itertools.islice(itertools.cycle(CLASS_SETS.values()), len(prompts)))
    chosen = engine.choose(prompts, sets, end_id=1)
    expected = [_walk(log_probs, p, c, 1) for p, c in zip(prompts, sets)]
    assert chosen.tolist() == expected
    assert len(set(expected)) > 2


def test_one_forward_pass_decides_where_first_tokens_differ(model, params, monkeypatch):
    from v2l_jax.llm import engine_steps as decoding_steps

    monkeypatch.setattr(decoding_steps.lax, "while_loop", None)
    prompts = [[1, 2, 3], [4, 5]]
    LLMEngine(model, params).choose(
        prompts, [CLASS_SETS["first tokens differ"], CLASS_SETS["common first token"]]
    )


def test_compilations_are_bounded_by_shapes_not_prompts(model, params):
    engine = LLMEngine(model, params, token_budget=256)
    candidates = [[[1], [2]]] * 61
    engine.score_continuations(_prompts(60), candidates)
    compiled = engine.compilations
    assert (
        compiled <= 7
    )  # two prefix shapes; batches of one prefix, pooled, unshared, and their remainders
    engine.score_continuations(_prompts(60)[::-1], candidates)
    assert engine.compilations == compiled


def test_one_program_a_planned_shape(model, params):
    """How many shapes there are at the most is the planner's test."""
    engine = LLMEngine(model, params, token_budget=256)
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(10):
        prompts = [
            rng.integers(1, 40, rng.integers(1, 17)).tolist() for _ in range(rng.integers(1, 40))
        ]
        engine.score_continuations(prompts, [[[1], [2]]] * len(prompts))
        waves = plan_batches(share_prefixes(prompts), engine.token_budget)
        shapes |= {
            (wave.length, len(batch.rows), batch.length) for wave in waves for batch in wave.batches
        }
        assert all(wave.length == 0 for wave in waves)
    assert engine.compilations == len(shapes) <= 2 * len({bucket_length(n) for n in range(1, 17)})


def test_too_long_prompts_are_listed_before_anything_runs(model):
    with pytest.raises(
        V2LError, match=r"2 of 3 prompts.*context of 96.*prompt 0: 101, prompt 2: 97"
    ):
        LLMEngine(model, None).generate([[1] * 100, [1] * 10, [1] * 96], 1)


@pytest.mark.parametrize(
    "prompts, candidates, message",
    [
        ([[]], [[[1]]], "empty prompt"),
        ([[1]], [[[2], []]], "empty"),
        ([[1]], [[[2], [2]]], "different"),
        ([[1]], [[[2], [2, 3]]], "end_id"),
    ],
)
def test_bad_candidates_are_named(model, prompts, candidates, message):
    with pytest.raises(DataError, match=message):
        LLMEngine(model, None).choose(prompts, candidates)


@pytest.mark.parametrize(
    "rules, message",
    [
        (dict(allowed=[]), "0 masks.*1 prompts"),
        (dict(allowed=[[]]), "prompt 0: step 0 permits no token"),
        (dict(allowed=[[[1], []]]), "prompt 0: step 1 permits no token"),
        (dict(allowed=[[[1], [40]]]), "prompt 0.*the model lacks.*0 to 39"),
        (dict(allowed=[[[1]]], vocabulary=[2, 3]), "prompt 0: step 0 permits no token"),
        (dict(vocabulary=[]), "vocabulary has 0 ids"),
        (dict(vocabulary=[3, 40]), "0 to 39"),
    ],
)
def test_rules_that_cannot_hold_are_named(model, rules, message):
    with pytest.raises(DataError, match=message):
        LLMEngine(model, None).generate([[1, 2]], 4, **rules)


def test_vectors_stand_in_prompts_where_ids_do(engine, model, params):
    """The vectors of ordinary tokens say what the tokens say; others, what the plain forward pass
    says of them as inputs.
    """
    plain, engine = engine, LLMEngine(model, params, token_budget=256)
    prompts, table = _prompts(5), np.asarray(params["embedding"])
    as_vectors = [
        [*prompt[:4], *engine.slot_ids(table[prompt[4:8]]), *prompt[8:]] for prompt in prompts
    ]
    assert (
        len(engine.slot_ids(table[[7, 7]])) == 2 and len(set(engine.slot_ids(table[[7, 7]]))) == 1
    )
    assert min(max(prompt) for prompt in as_vectors) >= CONFIG.vocab_size
    assert engine.generate(as_vectors, 5) == plain.generate(prompts, 5)
    candidates = _candidates(prompts)
    for ours, theirs in zip(
        engine.score_continuations(as_vectors, candidates),
        plain.score_continuations(prompts, candidates),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    vectors = np.random.default_rng(3).normal(size=(2, 32)).astype("f") * 5
    prompt = [3, *engine.slot_ids(vectors), 9]
    inputs = jnp.concatenate([table[[3]], vectors, table[[9]]])[None]
    hidden, _ = model.apply({"params": params}, None, jnp.arange(4)[None], inputs=inputs)
    logits = model.apply({"params": params}, hidden[0, -1], method="logits")
    found = engine.score_continuations([prompt], [[[i] for i in range(40)]])[0]
    np.testing.assert_allclose(found, jax.nn.log_softmax(logits), atol=1e-4)


@pytest.mark.parametrize("vectors", [np.zeros((2, 31)), np.full((1, 32), np.nan)])
def test_vectors_that_no_embedding_could_be_are_refused(engine, vectors):
    with pytest.raises(DataError, match="cannot stand in a prompt"):
        engine.slot_ids(vectors)
