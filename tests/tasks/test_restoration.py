"""The restoration evaluator over random networks: rows, controls, resuming, and numbers made by
hand.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny_restoration import SIDE, get_config, make_workdir
from v2l_jax import experiment
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.jobs import evaluate
from v2l_jax.llm.peft_files import save_adapters
from v2l_jax.metrics.results import Result, read_results
from v2l_jax.report.tables import render
from v2l_jax.run import adapters, building
from v2l_jax.run.pictures import read_pictures
from v2l_jax.run.workdir import write_json
from v2l_jax.tasks import restoration


@pytest.fixture(scope="module")
def config(asset, tmp_path_factory):
    config = get_config(asset, tmp_path_factory.mktemp("llm"))
    config.model.image_size = 4 * SIDE  # SSIM needs 11 pixels
    config.model.channel_multipliers = (1, 1, 1)
    return config


def _adapters(run, factor):
    """Adapters as the finetune job leaves them, of random numbers."""
    lora, rng = adapters.lora(run.config), np.random.default_rng(5)
    sizes = {"q_proj": (16, 16), "k_proj": (8, 16)}
    make = lambda *shape: jnp.asarray(rng.standard_normal((2, *shape)) * factor, jnp.float32)
    matrices = {
        t: {"lora_A": make(lora.rank, i), "lora_B": make(o, lora.rank)}
        for t, (o, i) in sizes.items()
    }
    save_adapters(adapters.adapters_folder(run.workdir), matrices, lora, "tiny")
    write_json(adapters.folder(run.workdir) / "settings.json", adapters.settings(run.config))


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """A measured run."""
    run = evaluate.open_run(config, make_workdir(config, tmp_path_factory.mktemp("run")))
    words = building.vectors({"local": run.local_words, "global": run.global_words})
    model = building.tokenizer(config, words)
    batch = {"image": jnp.zeros((1, 4 * SIDE, 4 * SIDE, 3)), "image_embedding": jnp.ones((1, 12))}
    variables = jax.jit(lambda key: model.init(key, batch))(jax.random.key(0))
    variables = variables | {"frozen": model.frozen(words)}
    run.__dict__.update(
        mesh=jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("data",)), lpips=None
    )
    run.__dict__.update(
        trained=building.TrainedTokenizer(model, variables, run.local_words, run.global_words)
    )
    _adapters(run, 0.5)
    restoration.measure(run, restoration.settings(config))
    return run


@pytest.fixture
def value(run):
    rows = read_results(run.workdir / "results.json")

    def find(metric, method, control="none"):
        (row,) = [
            r
            for r in rows
            if (r.metric, r.measured_on["method"], r.measured_on["control"])
            == (metric, method, control)
        ]
        assert (
            row.count == 6
            and row.measured_on["masked"] == 0.3
            and row.measured_on["task"] == "restoration"
        )
        return row.value

    return find


def _chosen(run):
    indices = np.sort(np.random.default_rng(run.config.seed).permutation(20)[:6])
    return jax.tree.map(lambda ids: ids[indices], run.tokens("held_out"))


def test_every_row_is_there_and_the_evaluation_is_done(run, value):
    assert evaluate.is_done(run.config, run.workdir)
    rows = [
        (method, control)
        for method in ("frozen", "lora")
        for control in ("none", "no_tokens", "shuffled")
    ]
    for method, control in [*rows, ("nearest", "none"), ("most_frequent", "none")]:
        accuracy = value("token_accuracy", method, control)
        assert accuracy * 30 == pytest.approx(round(accuracy * 30))  # 5 of 16 words in 6 pictures
        assert value("psnr", method, control) > 0 and value("ssim", method, control) < 1
    assert evaluate.is_done(_with(run.config, steps=9), run.workdir) is False


def test_cross_entropy_is_that_of_the_model_on_one_text(run, value):
    task = restoration._task(run)
    texts = restoration._prompt(run).texts(task.true, task.masks)
    model, expected = run.llm.model, []
    for tokens, targets in zip(texts["tokens"], texts["targets"]):
        hidden, _ = model.apply(
            {"params": run.llm.params}, jnp.asarray(tokens[None]), jnp.arange(len(tokens))[None]
        )
        log_p = jax.nn.log_softmax(
            model.apply({"params": run.llm.params}, hidden[0], method="logits")
        )
        expected.append(-np.mean([log_p[t - 1, tokens[t]] for t in targets]))
    assert value("hidden_word_nats", "frozen") == pytest.approx(np.mean(expected), rel=1e-5)
    assert value("hidden_word_nats", "lora") != value("hidden_word_nats", "frozen")


def _with(config, **changes):
    config = config.copy_and_resolve_references()
    config.finetune.update(changes)
    return config


def test_baselines_by_hand(run, value):
    true = _chosen(run)["local"].reshape(6, -1)
    task = restoration._task(run)
    np.testing.assert_array_equal(task.true, true)
    common = np.bincount(run.tokens("train")["local"].ravel()).argmax()
    assert value("token_accuracy", "most_frequent") == pytest.approx(
        (true[task.masks] == common).mean()
    )


def test_grey_squares_lie_over_hidden_words_and_nothing_else(run, value):
    tokens, task = _chosen(run), restoration._task(run)
    truth = np.clip(jax.jit(run.trained.tokenizer.decode)(run.trained.variables, tokens), -1, 1)
    grey = restoration._greyed(task)
    for image in range(6):
        for row in range(SIDE):
            for column in range(SIDE):
                square = np.s_[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                expected = 0 if task.masks[image, SIDE * row + column] else truth[square]
                np.testing.assert_allclose(
                    grey[square], np.broadcast_to(expected, (4, 4, 3)), atol=1e-4
                )
    errors = ((grey - truth) / 2) ** 2
    assert value("psnr", "masked") == pytest.approx(
        np.mean(-10 * np.log10(errors.mean((1, 2, 3)))), abs=1e-3
    )


def test_adapters_change_what_is_filled_in_and_zero_ones_do_not(run):
    task = restoration._task(run)
    frozen, adapted = (
        restoration._filled(run, task, method, "none") for method in ("frozen", "lora")
    )
    assert (frozen != adapted).any() and (frozen == task.true)[~task.masks].all()
    other = evaluate.open_run(run.config, run.workdir)
    other.__dict__.update(llm=run.llm, engine=run.engine, mesh=run.mesh)
    kept = {path: path.read_bytes() for path in adapters.adapters_folder(run.workdir).iterdir()}
    _adapters(other, 0.0)
    np.testing.assert_array_equal(restoration._filled(other, task, "lora", "none"), frozen)
    for path, content in kept.items():
        path.write_bytes(content)


def test_without_words_every_picture_with_the_same_mask_is_filled_in_alike(run):
    task = restoration._task(run)
    same = dataclasses.replace(task, masks=np.repeat(task.masks[:1], 6, 0))
    filled = restoration._filled(run, same, "frozen", "no_tokens")[same.masks].reshape(6, -1)
    assert (filled == filled[0]).all()
    shuffled = restoration._filled(run, same, "frozen", "shuffled")[same.masks].reshape(6, -1)
    plain = restoration._filled(run, same, "frozen", "none")[same.masks].reshape(6, -1)
    assert (
        sorted(map(tuple, shuffled)) == sorted(map(tuple, plain)) and (shuffled != plain).any()
    )  # the same pictures' words, moved


def test_the_report_shows_the_table_pictures_and_text(run):
    section = restoration.section(run, read_results(run.workdir / "results.json"))
    (table,), (gallery,), (example,) = section.tables, section.galleries, section.examples
    assert [row[0] for row in table.rows][:2] == [
        "Language model with LoRA adapters",
        "Control: with adapters, every word hidden",
    ]
    assert (
        len(table.rows) == 9
        and len(gallery.rows) == 2
        and [len(row) for row in gallery.rows] == [5, 5]
    )
    assert example.prompt.count(" >\nOutput: <") == 1 and example.prompt.count("_") == 5
    np.testing.assert_array_equal(
        gallery.rows[1][-1].image, read_pictures(run.folder("restoration") / "truth")[1]
    )


def test_what_cannot_work_is_refused_before_anything_runs(config):
    experiment.check(config)
    restoration.check(config)
    too_many = config.copy_and_resolve_references()
    too_many.evaluate.restoration.images = 21
    with pytest.raises(DataError, match="asks for 21 held-out photos, but there are 20"):
        restoration.check(too_many)
    wordy = config.copy_and_resolve_references()
    wordy.finetune.mask_text = " unfathomably masked"
    with pytest.raises(ConfigError, match="is [2-9] tokens of this language model"):
        restoration.check(wordy)
    wordy.finetune.task = "vqa"
    with pytest.raises(ConfigError, match="config.finetune.task is 'vqa'"):
        restoration.check(wordy)


def _table_row(metric, value, method, control="none", ci95=None, llm="small", masked=0.3):
    return Result(
        metric,
        value,
        32,
        ci95,
        {"method": method, "control": control, "llm": llm, "masked": masked},
    )


def test_rows_are_methods_with_their_controls_and_columns_metrics():
    results = [
        _table_row("psnr", 12.345, "masked"),
        _table_row("token_accuracy", 0.01, "most_frequent"),
        _table_row("token_accuracy", 0.12345, "lora", ci95=(0.1, 0.15)),
        _table_row("psnr", float("nan"), "lora"),
        _table_row("token_accuracy", 0.02, "lora", "shuffled"),
    ]
    (table,) = render(results, restoration.TABLE)
    assert table.head == ("", "Hidden words restored exactly, %", "PSNR in dB")
    assert table.caption.startswith("30% of the local words hidden; small; 32 held-out pictures")
    assert [row[1:] for row in table.rows] == [
        ("12.35\n10.00–15.00", "undefined"),
        ("2.00", "–"),
        ("1.00", "–"),
        ("–", "12.35"),
    ]
    assert "another picture's words" in table.rows[1][0]


def test_language_models_and_shares_have_tables_of_their_own():
    results = [
        _table_row("ssim", v, "frozen", llm=llm, masked=m)
        for v, llm, m in ((0.1, "b", 0.3), (0.2, "a", 0.3), (0.3, "a", 0.5))
    ]
    tables = render(results, restoration.TABLE)
    assert [table.rows[0][1] for table in tables] == ["0.100", "0.200", "0.300"]
