"""The benchmark at a tiny size: engine and loop in torch give the same answers, and every table is
filled.
"""

import pytest
from absl import flags
from absl.testing import flagsaver

from benchmarks import incontext
from benchmarks.workloads import Denoising, FewShot, agreement
from v2l_jax.llm.text_tokenizers import load_text_tokenizer

CONFIG = incontext.SHAPES["tiny"]


@pytest.fixture(scope="module")
def tokenizer(asset):
    return load_text_tokenizer(asset("smollm2-135m-instruct"))


@pytest.fixture(scope="module")
def engines(torch):
    return incontext.random_engines(CONFIG, "float32", token_budget=1024)


def test_few_shot_prompts_are_the_published_ones(tokenizer):
    task = FewShot.make(tokenizer, 2, 1, 6, tokenizer.vocab_size)
    text = tokenizer.decode(task.prompts[0])
    assert text.startswith("For each of the following input output pairs, output is one of ['")
    assert text.count("###\nInput: <") == 3 and text.endswith("Output:")
    assert task.needed_tokens == max(map(len, task.masks)) and task.count == 6


def test_pictures_count_by_their_windows(tokenizer):
    for corruption in ("deblurring", "inpainting", "outpainting"):
        whole = Denoising.make(tokenizer, corruption, 1, 16, CONFIG.vocab_size)
        quarter = Denoising.make(tokenizer, corruption, 2, 8, CONFIG.vocab_size)
        assert (whole.count, quarter.count) == (1, 0.5)
        assert {len(prompt) for prompt in whole.prompts} == {
            len(prompt) for prompt in quarter.prompts
        }


def test_engine_and_loop_agree(tokenizer, engines):
    few_shot = FewShot.make(tokenizer, 2, 1, 5, CONFIG.vocab_size)
    denoising = [
        Denoising.make(tokenizer, kind, 2, 4, CONFIG.vocab_size)
        for kind in ("deblurring", "inpainting")
    ]
    for task in (few_shot, *denoising):
        peer, ours, *more = incontext.measure_task(task, engines, repeats=1)
        assert not more and ours.same == 1.0 and ours.task == peer.task == task.name
        assert (
            ours.rate > 0 and ours.bound > 0 and ours.ratio == pytest.approx(ours.rate / peer.rate)
        )


def test_ours_alone(tokenizer):
    """Without the peer the same rows, and as fast a bound; nothing is compared."""
    engines = incontext.random_engines(CONFIG, "float32", token_budget=1024, with_peer=False)
    (row,) = incontext.measure_task(
        FewShot.make(tokenizer, 2, 1, 3, CONFIG.vocab_size), engines, repeats=1
    )
    assert row.rate > 0 and row.bound > 0 and (row.ratio, row.same) == (None, None)
    assert incontext.task_cells(row)[3] == ""


def test_agreement_is_of_whole_answers():
    assert agreement([[1, 2], [3]], [[1, 2], [4]]) == 0.5


def test_tables_of_random_weights(tokenizer, engines, capsys):
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(episodes=5, images=2, grid=4, repeats=1, scaling=["1", "2"]):
        incontext.report(engines, ["inpainting", "scaling", "phases"])
    out = capsys.readouterr().out
    assert out.count("| torch loop, float32 | ") == 2 and out.count("| ours, float32 |") == 2
    assert "| prefill | " in out and "| decoding | " in out and out.count("\n| 2 | ") == 1
