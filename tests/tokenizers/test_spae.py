"""SPAE's quantizer and losses by brute force, and a few steps of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import synthetic_config
from tests.tokenizers.short_training import train
from v2l_jax import experiment
from v2l_jax.errors import ConfigError
from v2l_jax.run import building
from v2l_jax.tokenizers.quantizers.pyramid import map_of_tokens, positions, quantize_layers
from v2l_jax.tokenizers.spae import commitment_loss, draw, relative_scores, semantic_loss

SIDES = (1, 2, 4, 4)


def _maps(seed=0, words=20):
    random = np.random.RandomState(seed)
    return random.randn(2, 4, 4, 3).astype("f"), random.randn(words, 3).astype("f")


def _brute_force(z, e, sides, residual):
    """Position by position, layer by layer, as the paper writes it (counted from 1)."""
    b, side = len(z), z.shape[1]
    ids = [np.zeros((b, n, n), int) for n in sides]
    maps = [np.zeros(z.shape) for _ in sides]
    for image in range(b):
        for y in range(1, side + 1):
            for x in range(1, side + 1):
                chosen = []
                for number, n in enumerate(sides):
                    step = side // n
                    at = [step * i - -(-step // 2) + 1 for i in range(1, n + 1)]
                    here = z[image, y - 1, x - 1].astype(float)
                    if y in at and x in at:
                        left = here - sum(e[k] for k in chosen) if residual else here.copy()
                        for k in [] if residual else chosen:
                            left += here - e[k]
                        k = ((left - e) ** 2).sum(-1).argmin()
                        ids[number][image, at.index(y), at.index(x)] = k
                        chosen.append(k)
                    if chosen:
                        total = sum(e[k] for k in chosen)
                        maps[number][image, y - 1, x - 1] = (
                            total if residual else total / len(chosen)
                        )
    return ids, maps


@pytest.mark.parametrize("residual", [False, True])
def test_quantizer_by_brute_force(residual):
    z, e = _maps()
    layers = quantize_layers(jnp.asarray(z), jnp.asarray(e), SIDES, residual)
    ids, maps = _brute_force(z, e, SIDES, residual)
    for number, layer in enumerate(layers):
        np.testing.assert_array_equal(layer.ids, ids[number])
        np.testing.assert_allclose(layer.so_far, maps[number], atol=1e-5)
        first = [layer.ids for layer in layers[: number + 1]]
        again = map_of_tokens(first, jnp.asarray(e), 4, residual)
        np.testing.assert_allclose(again, maps[number], atol=1e-5)


def test_positions_are_the_papers():
    """Of a 16×16 map, counted from 1: (9), (5, 13), (3, 7, 11, 15), the even ones, all."""
    wanted = {1: [9], 2: [5, 13], 4: [3, 7, 11, 15], 8: list(range(2, 17, 2))}
    for count, rows in wanted.items():
        assert (positions(count, 16) + 1).tolist() == rows
    assert positions(16, 16).tolist() == list(range(16))


def test_more_layers_come_nearer_where_the_average_streams():
    z, e = _maps(words=500)
    for residual in (False, True):
        layers = quantize_layers(jnp.asarray(z), jnp.asarray(e), (4,) * 5, residual)
        apart = [float(np.mean((z - layer.so_far) ** 2)) for layer in layers]
        assert apart[-1] < 0.5 * apart[0]


def test_losses_written_out():
    z, e = _maps()
    layers = quantize_layers(jnp.asarray(z), jnp.asarray(e), SIDES)
    wanted = 0.0
    for layer in layers:
        there = np.broadcast_to(layer.covered[..., None], z.shape)
        wanted += np.mean((z[there] - np.asarray(layer.so_far)[there]) ** 2)
    np.testing.assert_allclose(commitment_loss(jnp.asarray(z), layers), wanted, rtol=1e-5)
    random = np.random.RandomState(5)
    images, tower = random.randn(2, 6).astype("f"), random.randn(20, 6).astype("f")
    scores = np.asarray(relative_scores(jnp.asarray(images), jnp.asarray(tower)))
    products = images @ tower.T
    low, high = products.min(1, keepdims=True), products.max(1, keepdims=True)
    np.testing.assert_allclose(scores, (products - low) / (high - low), atol=1e-5)
    # A threshold of 1 leaves the best word alone: no draw decides.
    found = semantic_loss(
        jax.random.key(0), layers, jnp.asarray(scores), jnp.asarray(e), (1.0,) * 2
    )
    best, terms = scores.argmax(1), []
    for layer in layers[:2]:
        seen = np.asarray(layer.seen, float).reshape(2, -1, 3)
        distances = ((seen[:, :, None] - e) ** 2).sum(-1)
        log_shares = -distances - np.log(np.exp(-distances).sum(-1, keepdims=True))
        terms.append(-np.mean([log_shares[i, :, best[i]].mean() for i in range(2)]))
    np.testing.assert_allclose(found, np.mean(terms), rtol=1e-4)


def test_targets_are_drawn_evenly_from_what_is_allowed():
    allowed = np.zeros((2, 10), bool)
    allowed[0, [0, 3, 9]], allowed[1, 5] = True, True
    drawn = np.asarray(draw(jax.random.key(1), jnp.asarray(allowed), 3000))
    counts = np.bincount(drawn[0], minlength=10)
    assert counts[~allowed[0]].sum() == 0 and (np.abs(counts[allowed[0]] - 1000) < 150).all()
    assert (drawn[1] == 5).all()


def test_the_papers_token_counts():
    config = experiment.default()
    config.model.kind = "spae"
    words = {name: jnp.zeros((40, 8)) for name in ("local", "candidates")}
    count = lambda sides: np.cumsum([n * n for n in sides]).tolist()
    tokenizer = building.tokenizer(config, words)
    assert count(tokenizer.sides) == [1, 5, 21, 85, 341, 597]
    assert count((*tokenizer.sides, 16, 16))[-2:] == [853, 1109]
    config.model.spae.sides = (1, 3, 16)
    with pytest.raises(ConfigError, match=r"sides is \(1, 3, 16\), but each must divide the last"):
        experiment.check(config)


def test_it_trains_and_decodes_any_first_layers():
    config = synthetic_config.get_config()
    config.model.kind, config.model.channel_multipliers = "spae", (1, 1)
    config.model.spae.sides = (1, 2, 8, 8)
    config.model.spae.thresholds = (0.9, 0.8)
    random = np.random.RandomState(0)
    books = {"local": (50, 6), "candidates": (90, 5)}
    words = {name: random.randn(*shape).astype("f") for name, shape in books.items()}
    tokenizer = building.tokenizer(config, words)
    batch = {
        "image": random.uniform(-1, 1, (4, 16, 16, 3)).astype("f"),
        "image_embedding": random.randn(4, 5).astype("f"),
    }
    frozen = tokenizer.frozen(words)
    assert frozen["local_tower_words"].shape == (50, 5)
    rows, variables = train(tokenizer, frozen, batch, 15)
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"] and rows[-1]["semantic_loss"] > 0
    image, tokens = jax.jit(tokenizer.reconstruct)(variables, batch)
    assert [ids.shape[1:] for ids in tokens.values()] == [(1, 1), (2, 2), (8, 8), (8, 8)]
    first = jax.jit(tokenizer.decode)(variables, {"layer_1": tokens["layer_1"]})
    assert image.shape == first.shape == (4, 16, 16, 3)
    assert 1 < float(tokenizer.used_entries(tokens).sum()) <= 50
