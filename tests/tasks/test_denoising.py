"""The denoising evaluator over a random tokenizer and a random language model: rows, resuming, and
numbers made by hand.
"""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import denoising as denoising_config
from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.corruptions import gaussian_blur, hole
from v2l_jax.data.transforms import to_signed, to_uint8
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import evaluate
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.metrics.results import Result, read_results, write_results
from v2l_jax.run import building, loading, pictures
from v2l_jax.run.paths import tokens_path
from v2l_jax.tasks import denoising

WORDS, PHOTOS, SIDE = 40, 5, 16
NAMES = ("inpainting", "deblurring", "shift")
LLM = LlamaConfig(
    49_152, 16, 24, 1, 2, 1, 8, 512, 1e-5, rotary_frequencies(8, 10000.0), tied_embeddings=True
)


def _config():
    config = get_config()
    config.data.kind = "synthetic"
    config.data.synthetic_length, config.data.synthetic_size = PHOTOS, SIDE
    config.model.image_size = SIDE
    config.evaluate.tasks = ("denoising",)
    config.evaluate.denoising = denoising_config.get_config().evaluate.denoising
    config.evaluate.denoising.update(
        corruptions=NAMES, images=3, pictures=2, rates=(0.5, 0.3), context=4
    )
    experiment.check(config)
    return config


@pytest.fixture
def config():
    return _config()


def _random(init):
    """Parameters of the shapes that `init` gives; drawn on the host, which compiles nothing."""
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda x: (0.2 * rng.standard_normal(x.shape)).astype(np.float32), jax.eval_shape(init)
    )


@pytest.fixture(scope="module")
def run(asset, tmp_path_factory):
    """A run whose networks are random and small, measured."""
    rng, config, workdir = np.random.default_rng(0), _config(), tmp_path_factory.mktemp("run")
    run, tokenizer = evaluate.open_run(config, workdir), loading.text_tokenizer(config)
    ids = tuple((int(i),) for i in rng.choice(np.arange(1000, 9000), WORDS, replace=False))
    texts = tuple(tokenizer.token_text(i) for (i,) in ids)
    book = Codebook(
        rng.standard_normal((WORDS, 6)).astype(np.float32),
        texts,
        ids,
        "made up",
        tokenizer.fingerprint,
    )
    words = building.vectors({"local": book, "global": book})
    model = building.tokenizer(config, words)
    batch = {"image": jnp.zeros((1, SIDE, SIDE, 3)), "image_embedding": jnp.ones((1, 6))}
    params = _random(lambda: model.init(jax.random.key(0), batch)["params"])
    variables = {"params": params, "frozen": model.frozen(words)}
    llm, token = Llama(LLM), jnp.zeros((1, 1), jnp.int32)
    params = _random(lambda: llm.init(jax.random.key(1), token, token)["params"])
    run.__dict__.update(
        mesh=jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",)),
        local_words=book,
        global_words=book,
        tokenizer=model,
        trained=building.TrainedTokenizer(model, variables, book, book),
        llm=loading.LanguageModel("tiny", llm, params, tokenizer),
        engine=LLMEngine(llm, params),
        lpips=None,
    )
    vectors = rng.standard_normal((PHOTOS, 6)).astype(np.float32)
    photos = np.stack([to_signed(run.photos.held_out[i]["image"]) for i in range(PHOTOS)])
    path = tokens_path(workdir, "held_out")
    for folder in (path.parent, workdir / "features"):
        folder.mkdir()
    np.save(workdir / "features" / "held_out.npy", vectors)
    np.savez(
        path,
        global_ids=rng.integers(0, WORDS, (PHOTOS, 5)).astype(np.int32),
        local_ids=pictures.to_words(run, photos, vectors),
    )
    denoising.measure(run, denoising.settings(config))
    return run


@pytest.fixture
def measured(run):
    return read_results(run.workdir / "results.json")


def _value(results, metric, corruption, control):
    (row,) = [
        r
        for r in results
        if (r.metric, r.measured_on["corruption"], r.measured_on["control"])
        == (metric, corruption, control)
    ]
    return row


def test_every_row_is_there_and_nothing_is_measured_twice(run, measured, tmp_path, monkeypatch):
    assert evaluate.is_done(run.config, run.workdir)
    controls = ("corrupted", "vote", "none", "no_tokens", "shuffled")
    for metric in ("psnr", "ssim"):
        found = {
            (r.measured_on["corruption"], r.measured_on["control"])
            for r in measured
            if r.metric == metric
        }
        assert found == {("none", "reconstruction")} | {
            (name, control) for name in NAMES for control in controls
        }
    assert all(r.measured_on["task"] == "denoising" for r in measured)
    shutil.copytree(run.workdir, tmp_path / "again")
    again = evaluate.open_run(run.config, tmp_path / "again")
    again.__dict__.update(
        {key: value for key, value in run.__dict__.items() if key not in ("config", "workdir")}
    )
    kept = [
        r
        for r in measured
        if (r.measured_on["corruption"], r.measured_on["control"]) != ("deblurring", "shuffled")
    ]
    write_results(again.workdir / "results.json", kept)
    asked = []
    monkeypatch.setattr(denoising, "restore", lambda *a, **k: asked.append(a[5]) or a[3])
    monkeypatch.setattr(evaluate, "Run", lambda *_, **__: again)
    evaluate.run(run.config, again.workdir)
    assert asked == ["deblurring"] and evaluate.is_done(run.config, again.workdir)


def test_numbers_are_those_of_the_pictures(run, measured):
    chosen = np.sort(np.random.default_rng(0).permutation(PHOTOS)[:3])
    photos = np.stack([to_signed(run.photos.held_out[int(i)]["image"]) for i in chosen])
    tokens = run.tokens("held_out")
    true = {stream: ids[chosen] for stream, ids in tokens.items()}
    decoded = np.clip(jax.jit(run.trained.tokenizer.decode)(run.trained.variables, true), -1, 1)

    def psnr(a, b):
        return np.mean(-10 * np.log10(np.mean(((a - b) / 2) ** 2, axis=(1, 2, 3))))

    np.testing.assert_allclose(
        _value(measured, "psnr", "none", "reconstruction").value, psnr(photos, decoded), rtol=1e-4
    )
    hidden = np.where(hole("inpainting", SIDE, SIDE)[..., None], 0, photos)
    np.testing.assert_allclose(
        _value(measured, "psnr", "inpainting", "corrupted").value, psnr(photos, hidden), rtol=1e-4
    )
    blurred = [[gaussian_blur(photo, size) for size in (5, 7, 9, 11)] for photo in photos]
    sharp = [[psnr(p[None], b[None]) for b in row] for p, row in zip(photos, blurred)]
    assert (
        min(map(min, sharp))
        <= _value(measured, "psnr", "deblurring", "corrupted").value
        <= max(map(max, sharp))
    )
    assert (
        _value(measured, "pictures_changed", "shift", "corrupted").value == 0
    )  # synthetic photos are square
    unchanged = _value(measured, "psnr", "shift", "corrupted")
    assert (
        unchanged.count == 0
        and np.isnan(unchanged.value)
        and _value(measured, "ssim", "shift", "corrupted").value == 1
    )
    assert _value(measured, "pictures_changed", "deblurring", "corrupted").value == 1


def test_the_vote_knows_more_than_a_random_language_model(measured):
    for name in NAMES:
        vote, random = (
            _value(measured, "token_accuracy", name, control).value
            for control in ("vote", "shuffled")
        )
        assert vote > 0.4 > random


def test_the_section_shows_tables_pictures_and_a_prompt(run, measured):
    part = denoising.section(run, measured)
    assert [table.head[1:] for table in part.tables] == [
        tuple(name.capitalize() for name in NAMES)
    ] * 3
    assert len(part.galleries) == 3 and all(len(gallery.rows) == 2 for gallery in part.galleries)
    row = part.galleries[0].rows[0]
    assert [picture.caption for picture in row][:3] == ["the photo", "damaged", "restored"] and len(
        row
    ) == 6
    chosen = int(np.sort(np.random.default_rng(0).permutation(PHOTOS)[:3])[0])
    np.testing.assert_array_equal(row[0].image, run.photos.held_out[chosen]["image"])
    damaged = to_uint8(
        np.where(hole("inpainting", SIDE, SIDE)[..., None], 0, to_signed(row[0].image))
    )
    np.testing.assert_array_equal(row[1].image, damaged)
    prompt = part.examples[0].prompt
    assert prompt.startswith(
        "Learning a new language and predict the 2 tokens following the examples.\n###\nInput: < "
    )
    assert (
        prompt.count("###") == 3 and prompt.endswith(" >\nOutput: ") and part.examples[0].expected
    )
    assert "Shift leaves 3 of 3 photos" in part.lead


def test_what_cannot_work_is_said_before_anything_runs(config):
    config.evaluate.denoising.images = 9
    with pytest.raises(DataError, match="asks for 9 held-out photos, but there are 5"):
        denoising.check(config)
    config.evaluate.denoising.images = 0
    denoising.check(config)
    config.model.image_size = 20
    with pytest.raises(ConfigError, match="10 × 10"):
        denoising.check(config)
    config.evaluate.denoising.corruptions = ("rotation",)
    denoising.check(config)
    config.evaluate.denoising.rates = (1.5,)
    with pytest.raises(ConfigError, match="rates"):
        experiment.check(config)


def test_the_config_has_the_published_options():
    c = denoising_config.get_config().evaluate.denoising
    assert isinstance(c, ConfigDict) and (c.window, c.context, c.counted_globals) == (2, 16, 21)
    np.testing.assert_allclose(c.rates, 0.5 - 0.03 * np.arange(10))


def _table_row(metric, value, corruption, control, ci95=None, llm="small"):
    return Result(
        metric, value, 8, ci95, {"corruption": corruption, "control": control, "llm": llm}
    )


def test_the_layout_of_table_4():
    results = [
        _table_row("lpips", 0.31234, "none", "reconstruction", (0.3, 0.32)),
        _table_row("lpips", 0.51234, "rotation", "none", (0.4, 0.6)),
        _table_row("lpips", 0.7, "inpainting", "none"),
        _table_row("lpips", 0.9, "inpainting", "corrupted"),
        _table_row("token_accuracy", 0.5, "inpainting", "vote"),
        _table_row("pictures_changed", 1.0, "inpainting", "corrupted"),
    ]
    lpips, accuracy = denoising.tables(results)
    assert lpips.head == ("", "Inpainting", "Rotation") and "8 pictures" in lpips.caption
    assert [row[1:] for row in lpips.rows[:3]] == [
        ("0.7000", "0.5123\n0.4000–0.6000"),
        ("0.9000", "–"),
        ("0.3123\n0.3000–0.3200", "0.3123\n0.3000–0.3200"),
    ]
    assert lpips.rows[0][0].endswith("\nsmall")
    assert [row[1:] for row in lpips.rows[3:6]] == [("–", "–")] * 3  # not transcribed
    assert all("not in the transcript at hand" in row[0] for row in lpips.rows[3:6])
    assert [(row[0].split("\n")[0], *row[1:]) for row in lpips.rows[6:]] == [
        ("Paper: LLaMA-2 7B", "0.1219", "0.1064"),
        ("Paper: LLaMA-2 13B", "0.1134", "0.1128"),
        ("Paper: LLaMA-2 70B", "0.1021", "0.1058"),
    ]
    assert (
        accuracy.head == ("", "Inpainting")
        and accuracy.rows[0][1] == "50.0"
        and len(accuracy.rows) == 1
    )


def test_language_models_have_rows_of_their_own():
    results = [
        _table_row("fid", value, "shift", "none", llm=llm)
        for value, llm in ((20.0, "small"), (10.0, "large"))
    ]
    (table,) = denoising.tables(results)
    numbers = [row[1] for row in table.rows]
    assert numbers == ["20.00", "10.00", "–", "–", "–", "10.53", "11.84", "10.79"]
    assert [row[0].split("\n")[1] for row in table.rows[:2]] == ["small", "large"]
