"""Rows of metrics.jsonl become curves, curves become plots."""

from v2l_jax.report.curves import curve_plots, curves_from_rows


def test_rows_become_curves():
    rows = [
        {"step": 10, "split": "train", "loss": 0.5, "psnr": 9},
        {"step": 0, "split": "train", "loss": 0.9},
        {"step": 10, "split": "eval", "psnr": 8.5, "remark": "text"},
        {"step": 10, "split": "train", "loss": 0.4},
        {"step": 20, "split": "train", "loss": float("nan")},
    ]
    assert curves_from_rows(rows) == {
        "train/loss": ([0, 10], [0.9, 0.4]),
        "train/psnr": ([10], [9]),
        "eval/psnr": ([10], [8.5]),
    }


def test_plots_group_by_quantity():
    curves = {
        "eval/psnr": ([1], [2.0]),
        "train/psnr": ([1, 2], [1.0, 2.0]),
        "train/gan": ([1], [0.0]),
        "train/loss": ([1], [3.0]),
    }
    plots = curve_plots(curves | {"train/empty": ([], [])})
    assert [plot.quantity for plot in plots] == ["loss", "psnr", "gan"]
    assert [line.name for line in plots[1].lines] == ["train", "held out"]


def test_codebook_health_is_open_and_not_folded_away():
    rows = [
        {"step": 1, "split": "train", "loss": 1.0, "gradient_norm": 1.0, "adaptive_weight": 0.0}
    ]
    rows += [
        {
            "step": 1,
            "split": "eval",
            "psnr": 9.0,
            "ssim": 0.1,
            "lpips": 0.5,
            "codebook_usage": 0.2,
            "perplexity": 9.0,
            "dead_words": 40,
        }
    ]
    shown = [plot.quantity for plot in curve_plots(curves_from_rows(rows))]
    assert shown[:6] == ["loss", "psnr", "lpips", "codebook_usage", "perplexity", "dead_words"]
