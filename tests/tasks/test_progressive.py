"""Progressive decoding: what each prompt shows and asks, and rows by a made-up reader."""

import numpy as np
import pytest

from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import evaluate
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.metrics.results import read_results
from v2l_jax.run import building, loading
from v2l_jax.tasks import progressive


def test_segments_stay_in_their_layer_and_see_all_before():
    windows = progressive.segments([1, 4, 16], given=1, size=3)
    starts = [(w.source.stop, w.target.start, w.target.stop) for w in windows]
    assert starts[:2] == [(1, 1, 4), (4, 4, 5)] and starts[2] == (5, 5, 8) and starts[-1][2] == 21
    assert all(w.source == slice(0, w.target.start) for w in windows)


def test_layers_become_one_row_and_back():
    layers = {"layer_1": np.arange(2).reshape(2, 1, 1), "layer_2": np.arange(8).reshape(2, 2, 2)}
    words = progressive.flat(layers)
    assert words.tolist() == [[0, 0, 1, 2, 3], [1, 4, 5, 6, 7]]
    back = progressive.layered(words, layers)
    assert all(np.array_equal(back[name], ids) for name, ids in layers.items())


class Copying(LLMEngine):
    """Writes the output of the last example; without examples, the first permitted word."""

    def __init__(self, output, token_budget=512):
        self.output, self.token_budget = tuple(output), token_budget

    def check_lengths(self, prompts, new_tokens):
        pass

    def cache_prefixes(self, prefixes):
        return None

    def generate(self, prompts, max_new_tokens, *, vocabulary, prefix_cache, description):
        return [self._answer(prompt, max_new_tokens, vocabulary) for prompt in prompts]

    def _answer(self, prompt, count, vocabulary):
        size, marks = len(self.output), []
        for at in range(len(prompt) - size + 1):
            if tuple(prompt[at : at + size]) == self.output:
                marks.append(at + size)
        if len(marks) < 2:
            return [vocabulary[0]] * count
        found = prompt[marks[-2] : marks[-2] + count]
        return [i if i in vocabulary else vocabulary[0] for i in found]


@pytest.fixture
def run(asset, tmp_path, monkeypatch):
    config = experiment.complete(get_config())
    config.model.kind, config.evaluate.tasks = "spae", ("progressive",)
    config.model.image_size, config.model.channel_multipliers = 16, (1,)
    config.model.spae.sides = (1, 2, 4, 16)
    config.evaluate.progressive.update(images=6, layers=3, given=1)
    tokenizer = loading.text_tokenizer(config)
    ids = np.arange(300, 330)
    texts = tuple(tokenizer.decode([int(i)]) for i in ids)
    book = Codebook(
        np.random.RandomState(0).randn(30, 4).astype("f"),
        texts,
        tuple((int(i),) for i in ids),
        "noise",
        tokenizer.fingerprint,
    )
    words = {"local": book.embeddings, "candidates": book.embeddings}
    network = building.tokenizer(config, words)
    context = evaluate.open_run(config, tmp_path)
    random = np.random.RandomState(1)
    held_out = len(context.photos.held_out)
    (tmp_path / "tokens").mkdir()
    arrays = {
        f"layer_{n}_ids": random.randint(0, 30, (held_out, side, side)).astype(np.int32)
        for n, side in enumerate((1, 2, 4, 16), 1)
    }
    np.savez(tmp_path / "tokens" / "held_out.npz", **arrays)
    pieces = progressive.prompt_pieces(tokenizer, config.evaluate.progressive.segment)
    llm = loading.LanguageModel.__new__(loading.LanguageModel)
    object.__setattr__(llm, "tokenizer", tokenizer)
    vars(context).update(
        trained=building.TrainedTokenizer(network, {}, book),
        local_words=book,
        llm=llm,
        engine=Copying(pieces.output),
        lpips=None,
    )

    def paint(run, tokens):  # mean grey by how many layers there are
        return np.full((6, 16, 16, 3), len(tokens) / 4, "f")

    monkeypatch.setattr(progressive, "from_words", paint)
    return context


def test_rows_of_a_reader_that_copies_the_last_example(run):
    progressive.check(run.config)
    progressive.measure(run, progressive.settings(run.config))
    rows = read_results(run.workdir / "results.json")
    right = {r.measured_on["control"]: r.value for r in rows if r.metric == "words_as_they_were"}
    assert right["vote"] == 1.0  # ten copies, each with few words replaced
    assert right["none"] > 0.6 > right["shuffled"] and right["no_tokens"] < 0.2
    psnr = {r.measured_on["control"] for r in rows if r.metric == "psnr"}
    assert psnr == {"all_layers", "given_layers", "vote", "none", "no_tokens", "shuffled"}
    assert evaluate.is_done(run.config, run.workdir)
    section = progressive.section(run, rows)
    assert section is not None and len(section.tables) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [({"given": 3}, "gives 3 layers and paints from 3"), ({"layers": 5}, "and there are 4")],
)
def test_layers_that_are_not_there(run, change, message):
    run.config.evaluate.progressive.update(change)
    with pytest.raises(ConfigError, match=message):
        progressive.check(run.config)


def test_a_tokenizer_without_layers_is_refused(run):
    run.config.model.kind = "v2l"
    with pytest.raises(ConfigError, match="set it to 'spae'"):
        progressive.check(run.config)
