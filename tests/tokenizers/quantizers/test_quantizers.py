"""Every quantizer against its definition, written out in numpy, and its gradients against closed
form.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax import experiment
from v2l_jax.errors import ConfigError
from v2l_jax.tokenizers.quantizers import (
    bsq,
    continuous,
    fsq,
    ibq,
    lfq,
    multi_codebook,
    sim_vq,
    vq_l2,
)
from v2l_jax.tokenizers.quantizers import quantizer as chosen
from v2l_jax.tokenizers.quantizers.words import WordVectors

ALL = (
    vq_l2.Options(rows=30, width=4),
    ibq.Options(rows=30, width=4, temperature=0.5),
    fsq.Options(levels=(8, 6, 5)),
    lfq.Options(bits=6, group=3, temperature=0.7),
    bsq.Options(bits=6, group=3, temperature=0.7, commitment=0.2),
    sim_vq.Options(rows=30, width=4),
    multi_codebook.Options(parts=3, rows=9, width=2),
    WordVectors(30, 4, projected=True, tuned=True),
)


def _case(quantizer, seed=0):
    random = np.random.RandomState(seed)
    variables = {
        "params": quantizer.init(jax.random.key(seed)),
        "frozen": quantizer.frozen({"local": jnp.asarray(random.randn(30, 4), jnp.float32)}),
    }
    return variables, jnp.asarray(random.randn(2, 3, 3, quantizer.dim), jnp.float32)


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _nearest(features, rows):
    return ((features[..., None, :] - rows) ** 2).sum(-1).argmin(-1)


@pytest.mark.parametrize("quantizer", ALL, ids=lambda q: type(q).__module__.rsplit(".", 1)[-1])
def test_ids_are_below_the_count_and_vectors_are_what_quantize_gives(quantizer):
    variables, features = _case(quantizer)
    found = jax.jit(quantizer.quantize)(variables, features)
    ids = np.asarray(found.ids)
    assert ids.dtype == np.int32 and 0 <= ids.min() and ids.max() < quantizer.entries
    np.testing.assert_array_equal(ids, quantizer.ids(variables, features))
    np.testing.assert_allclose(found.vectors, quantizer.vectors(variables, found.ids), atol=1e-6)
    assert np.isfinite(found.loss)


def test_vq_l2():
    quantizer = ALL[0]
    variables, features = _case(quantizer)
    unit, rows = _unit(np.asarray(features)), _unit(np.asarray(variables["params"]["codebook"]))
    found = quantizer.quantize(variables, features)
    ids = _nearest(unit, rows)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.loss, 1.25 * np.mean((unit - rows[ids]) ** 2), rtol=1e-5)

    def loss(rows):
        return quantizer.quantize({"params": {"codebook": rows}, "frozen": {}}, features).loss

    to_rows = np.asarray(jax.grad(loss)(jnp.asarray(rows)))
    pull = 2 * (rows[ids] - unit) / unit.size  # then without what would change a row's length
    wanted = np.zeros_like(rows)
    np.add.at(wanted, ids, pull)
    wanted -= rows * (wanted * rows).sum(-1, keepdims=True)
    np.testing.assert_allclose(to_rows, wanted, atol=1e-6)


def test_ibq_reaches_every_entry():
    quantizer = ALL[1]
    variables, features = _case(quantizer)
    rows, z = np.asarray(variables["params"]["codebook"]), np.asarray(features)
    rows = (rows * 30).astype("f")
    variables = {"params": {"codebook": jnp.asarray(rows)}, "frozen": {}}
    logits = z @ rows.T
    ids = logits.argmax(-1)
    found = quantizer.quantize(variables, features)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.vectors, rows[ids], atol=1e-5)
    shares = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum(-1, keepdims=True)
    entropy = lambda p: -(p * np.log(p)).sum(-1)
    wanted = 2.25 * np.mean((rows[ids] - z) ** 2)
    wanted += 0.05 * (entropy(shares).mean() - entropy(shares.mean((0, 1, 2))))
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-5)
    target = np.random.RandomState(1).randn(*z.shape).astype("f")
    given = lambda rows: jnp.sum(
        quantizer.quantize({"params": {"codebook": rows}, "frozen": {}}, features).vectors * target
    )
    # d/dE of target·((h − sg p + p)·E): from h·E the chosen rows, from p every row.
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    inner = target @ rows.T
    through = p * (inner - (p * inner).sum(-1, keepdims=True))
    wanted = np.einsum("bhwk,bhwd->kd", np.eye(30)[ids], target)
    wanted += np.einsum("bhwk,bhwd->kd", through, z)
    found = np.asarray(jax.grad(given)(jnp.asarray(rows)))
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert (np.abs(found).sum(-1) > 0).all()


@pytest.mark.parametrize("levels", [(8, 6, 5), (7, 5, 5, 5, 5), (2, 3)])
def test_fsq_enumerates_all_levels(levels):
    quantizer = fsq.Options(levels=levels)
    every = np.asarray(list(itertools.product(*(range(n) for n in levels[::-1]))))[:, ::-1]
    half = np.asarray(levels) // 2
    codes = (every - half) / half
    ids = jnp.arange(quantizer.entries, dtype=jnp.int32).reshape(-1, 1, 1)
    np.testing.assert_allclose(quantizer.vectors({}, ids)[:, 0, 0], codes, atol=1e-6)
    # The unbounded number that each level comes from is quantized to that level.
    length = (np.asarray(levels) - 1) * (1 - 1e-3) / 2
    offset = np.where(np.asarray(levels) % 2 == 0, 0.5, 0.0)
    inside = np.clip((every - half + offset) / length, -0.9999, 0.9999)
    features = np.arctanh(inside) - np.tan(offset / length)
    found = quantizer.quantize({}, jnp.asarray(features[:, None, None], jnp.float32))
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.vectors[:, 0, 0], codes, atol=1e-6)
    assert found.loss == 0


def test_fsq_passes_the_gradient_of_the_bound():
    quantizer, z = fsq.Options(levels=(8, 5)), np.asarray([[[[0.3, -0.7]]]], "f")
    given = lambda z: jnp.sum(quantizer.quantize({}, z).vectors)
    levels, half = np.asarray([8, 5]), np.asarray([4, 2])
    length = (levels - 1) * (1 - 1e-3) / 2
    shift = np.tan(np.asarray([0.5, 0.0]) / length)
    wanted = (1 - np.tanh(z + shift) ** 2) * length / half
    np.testing.assert_allclose(jax.grad(given)(jnp.asarray(z)), wanted, rtol=1e-5)


@pytest.mark.parametrize("form", ["lfq", "bsq", "bsq bits"])
def test_signs_and_their_entropies(form):
    """The entropies by the table of all 2^6 codes, and of each group's."""
    if form == "lfq":
        quantizer, level, order = ALL[3], 1.0, 1
    else:
        batch = "bits" if form == "bsq bits" else "group"
        quantizer = bsq.Options(6, 3, batch, 0.2, 0.5, 0.7)
        level, order = 6**-0.5, -1
    features = _case(quantizer)[1]
    z = np.asarray(features, float)
    z = z if form == "lfq" else _unit(z)
    found = quantizer.quantize({}, features)
    bits = (z > 0).astype(int)
    weights = 2 ** np.arange(6)[::order]
    np.testing.assert_array_equal(found.ids, (bits * weights).sum(-1))
    codes = level * (2.0 * bits - 1)
    np.testing.assert_allclose(found.vectors, codes, atol=1e-6)

    def shares(part):
        table = level * np.asarray(list(itertools.product((-1.0, 1.0), repeat=part.shape[-1])))
        logits = 2 / 0.7 * part @ table.T
        p = np.exp(logits - logits.max(-1, keepdims=True))
        return p / p.sum(-1, keepdims=True)

    entropy = lambda p: -(p * np.log(p)).sum(-1)
    sure = entropy(shares(z)).mean()
    size = 1 if form == "bsq bits" else 3
    parts = (z[..., i : i + size] for i in range(0, 6, size))
    spread = sum(entropy(shares(part).mean((0, 1, 2))) for part in parts)
    if form == "lfq":
        wanted = 0.25 * np.mean((z - codes) ** 2) + 0.1 * (sure - spread)
    else:
        wanted = 0.2 * ((z - codes) ** 2).sum(-1).mean() + 0.5 * 0.7 * (sure - spread)
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-4)


def test_zero_is_a_negative_bit():
    zero = jnp.zeros((1, 1, 1, 6))
    for quantizer in (ALL[3], ALL[4]):
        assert quantizer.ids({}, zero)[0, 0, 0] == 0


def test_sim_vq_moves_all_entries_by_one_map():
    quantizer = ALL[5]
    variables, features = _case(quantizer)
    rows = np.asarray(variables["frozen"]["codebook_base"]) @ variables["params"]["codebook_map"]
    found = quantizer.quantize(variables, features)
    ids = _nearest(np.asarray(features), rows)
    np.testing.assert_array_equal(found.ids, ids)
    wanted = 1.25 * np.mean((np.asarray(features) - rows[ids]) ** 2)
    np.testing.assert_allclose(found.loss, wanted, rtol=1e-5)
    gradient = jax.grad(lambda v: quantizer.quantize(v, features).loss)(variables)
    assert not np.any(gradient["frozen"]["codebook_base"])
    assert np.any(gradient["params"]["codebook_map"])


def test_multi_codebook_is_vq_l2_in_each_part():
    quantizer = ALL[6]
    variables, features = _case(quantizer)
    found = quantizer.quantize(variables, features)
    one, losses = vq_l2.Options(rows=9, width=2), []
    for part in range(3):
        table = {"params": {"codebook": variables["params"]["codebook"][part]}, "frozen": {}}
        alone = one.quantize(table, features[..., 2 * part : 2 * part + 2])
        np.testing.assert_array_equal(found.ids[..., part], alone.ids + 9 * part)
        np.testing.assert_allclose(
            found.vectors[..., 2 * part : 2 * part + 2], alone.vectors, atol=1e-6
        )
        losses.append(alone.loss)
    np.testing.assert_allclose(found.loss, np.mean(losses), rtol=1e-6)
    assert quantizer.choices == 9 and quantizer.entries == 27


def test_the_bound_without_a_quantizer_passes_features_and_decodes_nothing():
    quantizer = continuous.Options(width=4)
    features = _case(quantizer)[1]
    found = quantizer.quantize({}, features)
    np.testing.assert_array_equal(found.vectors, features)
    assert found.loss == 0 and not np.any(found.ids)
    with pytest.raises(ConfigError, match="cannot be decoded"):
        quantizer.vectors({}, found.ids)


def test_words_as_they_are_projected_and_tuned():
    plain = WordVectors(30, 4, normalize=True)
    variables, features = _case(plain)
    words, unit = np.asarray(variables["frozen"]["local_words"]), _unit(np.asarray(features))
    found = plain.quantize(variables, features)
    ids = _nearest(unit, words)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.loss, 1.33 * np.mean((unit - words[ids]) ** 2), rtol=1e-5)
    variables, features = _case(ALL[7])
    kernel = np.asarray(variables["params"]["codebook_map"]["kernel"])
    change = np.random.RandomState(3).randn(30, 4).astype("f")
    variables["params"]["codebook_change"] = jnp.asarray(change)
    ids = _nearest(np.asarray(features), (words + change) @ kernel)
    np.testing.assert_array_equal(ALL[7].ids(variables, features), ids)
    gradient = jax.grad(lambda v: ALL[7].quantize(v, features).loss)(variables)
    unused = np.setdiff1d(np.arange(30), ids)
    assert not np.any(gradient["frozen"]["local_words"])
    assert not np.any(gradient["params"]["codebook_change"][unused])
    assert np.any(gradient["params"]["codebook_change"])


def test_the_config_names_one_and_its_options():
    config = experiment.default()
    config.model.quantizers.fsq.levels = (5, 5)
    assert chosen(config.model, "fsq") == fsq.Options((5, 5))
    with pytest.raises(ConfigError, match="must be one of codebook, bsq, continuous, fsq"):
        chosen(config.model, "gumbel")
    config.model.quantizers.lfq.group = 4
    with pytest.raises(ConfigError, match=r"lfq.group is 4, but must divide bits, 18"):
        chosen(config.model, "lfq")
