"""Reconstruction metrics and the rest of results.json as tables."""

import math

from v2l_jax.metrics.results import Result
from v2l_jax.report.quality import other_tables, quality_tables


def test_quality_rows_and_the_rest():
    results = [
        Result("psnr", 19.4161, 120, (19.1, 19.7), {"job": "evaluate"}),
        Result("codebook_usage", 0.1874, 120),
        Result("lpips", math.nan, 0, (math.nan, math.nan)),
        Result("throughput", 8.1, 200, None, {"ways": 2, "seconds": 1.5}),
        Result("psnr", 3.0, 7, (2.0, 4.0), {"task": "denoising"}),
        Result("few_shot_accuracy", 0.5, 7),
    ]
    (table,) = quality_tables(results)
    assert table.head == ("Metric", "Value", "Photos")
    assert [(row[0].split("\n")[0], *row[1:]) for row in table.rows] == [
        ("PSNR", "19.42\u00a0dB\n19.10–19.70", "120"),
        ("LPIPS", "undefined", "0"),
        ("Codebook usage", "18.7\u00a0%", "120"),
    ]
    (others,) = other_tables(results)
    assert others.rows == [("Throughput\nways: 2", "8.1", "200"), ("PSNR", "3\n2–4", "7")]


def test_a_table_for_each_setting():
    results = [Result("psnr", 1.0, 1, None, {"image_size": size}) for size in (64, 32)]
    assert [table.caption.split(". ")[1] for table in quality_tables(results)] == [
        "image size: 64",
        "image size: 32",
    ]
