"""Table 3: our rows beside the published ones."""

import pytest

from v2l_jax import experiment
from v2l_jax.errors import AssetError
from v2l_jax.metrics.results import Result
from v2l_jax.tasks import tasks
from v2l_jax.tasks.reconstruction import PUBLISHED, table_3

ON = {"dataset": "pets", "llm": "m", "tokenizer": "v2l", "tokens": 277, "task": "reconstruction"}


def test_our_row_stands_above_the_published_ones():
    values = {"fid": 30.123, "lpips": 0.21, "psnr": 20.5, "codebook_usage": 0.5}
    rows = [Result(metric, value, 40, None, ON) for metric, value in values.items()]
    (table,) = table_3([*rows, Result("effective_tokens", 812.0, 40, None, ON)])
    assert table.head == ("", "Tokens", "FID", "LPIPS", "PSNR", "SSIM", "IS", "Words in use")
    assert table.rows[0] == ("Ours: v2l\nm", "277", "30.12", "0.210", "20.50", "–", "–", "812")
    assert "pets, 40 photos" in table.caption
    published = {row[0].split("\n")[0] + row[1]: row[2:5] for row in table.rows[1:]}
    assert len(published) == len(PUBLISHED) - 1  # VQ-GAN of 256 tokens has two codebooks
    assert published["V2L (the paper)277"] == ("2.88", "0.080", "23.25")
    assert published["SPAE341"] == ("9.49", "0.170", "–")


def test_rows_that_do_not_say_their_tokens_make_no_table():
    on = {key: value for key, value in ON.items() if key not in ("tokens", "tokenizer")}
    assert table_3([Result("psnr", 20.0, 40, None, on)]) == []


def test_an_inception_that_is_not_there_is_refused_before_anything_runs():
    config = experiment.default()
    tasks()["reconstruction"].check(config)
    config.evaluate.reconstruction.inception = "data/pt_inception.pth"
    with pytest.raises(AssetError, match="'data/pt_inception.pth' is neither"):
        tasks()["reconstruction"].check(config)
