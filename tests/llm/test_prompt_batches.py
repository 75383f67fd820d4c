"""Batch planning: every prompt once, within budget, in few shapes; prefix sharing is optimal."""

import itertools

import numpy as np
import pytest

from v2l_jax.llm.prompt_batches import PREFIX_OVERHEAD, bucket_length, plan_batches, share_prefixes


def _cost(prompts, cuts):
    """Tokens computed when prompt i is cut at cuts[i]."""
    prefixes = {tuple(p[:c]) for p, c in zip(prompts, cuts) if c}
    return sum(len(p) - c for p, c in zip(prompts, cuts)) + sum(
        len(p) + PREFIX_OVERHEAD for p in prefixes
    )


def _shared(p, q):
    limit = min(len(p), len(q)) - 1
    return next((i for i in range(limit) if p[i] != q[i]), limit)


@pytest.mark.parametrize("seed", range(20))
def test_shared_prefixes_save_the_most_tokens(seed):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, 2, 4).repeat(9).tolist()[: rng.integers(1, 37)] for _ in range(5)]
    shared = share_prefixes(prompts)
    assert [[*p.prefix, *p.suffix] for p in shared] == prompts
    assert all(p.suffix for p in shared)
    cuts = [{0, *(_shared(p, q) for q in prompts if q is not p)} for p in prompts]
    best = min(_cost(prompts, choice) for choice in itertools.product(*cuts))
    assert _cost(prompts, [len(p.prefix) for p in shared]) == best


@pytest.mark.parametrize("shards", [1, 3, 8])
@pytest.mark.parametrize("prefix_lengths", [(0,), (7,), (5, 30, 9, 0, 20, 21), (900, 901, 902, 2)])
def test_every_prompt_runs_once_within_budget(shards, prefix_lengths):
    rng = np.random.default_rng(0)
    begins = [rng.integers(0, 99, n).tolist() for n in prefix_lengths]
    prompts = share_prefixes(
        [
            begins[i % len(begins)] + rng.integers(0, 99, rng.integers(1, 90)).tolist()
            for i in range(150)
        ]
    )
    budget = 1024
    waves = plan_batches(prompts, budget, shards, extra_tokens=2)
    seen = []
    for wave in waves:
        assert len(wave.prefixes) * wave.length <= budget
        for batch in wave.batches:
            assert len(batch.rows) % shards == 0 and len(batch.rows) % len(batch.prefixes) == 0
            assert len(batch.rows) * (batch.length + 2) <= budget or len(batch.rows) == shards
            for row, index in enumerate(batch.rows):
                if index >= 0:
                    prefix = batch.prefixes[row * len(batch.prefixes) // len(batch.rows)]
                    assert wave.prefixes[prefix] == prompts[index].prefix
                    assert len(prompts[index].suffix) <= batch.length
                    seen.append(index)
    assert sorted(seen) == list(range(150))
    shapes = {
        (len(w.prefixes), w.length, len(b.prefixes), len(b.rows), b.length)
        for w in waves
        for b in w.batches
    }
    assert len(shapes) <= 40


@pytest.mark.parametrize("shared, most", [(0, 2), (20, 5)])
def test_shapes_stay_few_however_many_calls(shared, most):
    """Programs that a run compiles, in buckets of suffix length: without a shared beginning, and
    with one.
    """
    rng = np.random.default_rng(0)
    begin, shapes = rng.integers(1, 99, shared).tolist(), set()
    for _ in range(60):
        ends = [
            rng.integers(1, 4000, rng.integers(1, 301)).tolist()
            for _ in range(rng.integers(1, 200))
        ]
        for wave in plan_batches(share_prefixes([begin + end for end in ends]), 4096):
            shapes |= {
                (len(wave.prefixes), wave.length, len(b.prefixes), len(b.rows), b.length)
                for b in wave.batches
            }
    assert len(shapes) <= most * len({bucket_length(n) for n in range(1, 301)})


def test_long_prompts_of_one_length_fill_the_budget():
    prompts = share_prefixes([[i, *range(127)] for i in range(64)])
    (wave,) = plan_batches(prompts, 4096)
    assert [batch.rows.shape for batch in wave.batches] == [(32,), (32,)]


def test_short_queries_after_long_prefixes_share_them_in_one_batch():
    rng = np.random.default_rng(0)
    begins = rng.integers(0, 99, (6, 600)).tolist()
    prompts = share_prefixes([[*begin, 100 + i] for begin in begins for i in range(4)])
    (wave,) = plan_batches(prompts, 4096)
    (batch,) = wave.batches
    assert len(batch.rows) == 32 and len(batch.prefixes) == 8


def test_buckets_waste_under_an_eighth():
    lengths = np.arange(1, 5000)
    padded = np.array([bucket_length(int(n)) for n in lengths])
    assert (padded >= lengths).all()
    assert ((padded - lengths) / padded < 0.125)[lengths > 64].all()
    assert len(set(padded[lengths <= 4096])) <= 60
