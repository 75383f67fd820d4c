"""Rows of results.json land in the right cells."""

from v2l_jax.report import tables


def test_quality_rows_and_the_rest():
    rows = tables.as_rows(
        [
            {
                "metric": "psnr",
                "value": 19.4161,
                "count": 120,
                "ci95": [19.1, 19.7],
                "job": "evaluate",
            },
            {"metric": "codebook_usage", "value": 0.1874, "count": 120, "ci95": None},
            {"metric": "lpips", "value": None, "count": 0, "ci95": [None, None]},
            {"metric": "throughput", "value": 8.1, "count": 200, "ways": 2},
        ]
    )
    (table,) = tables.quality_tables(rows)
    psnr, usage, lpips = table.rows
    assert (psnr.value, psnr.interval, psnr.count) == ("19.42\u00a0dB", "19.10–19.70", 120)
    assert (usage.value, usage.interval) == ("18.7\u00a0%", "")
    assert (lpips.value, lpips.interval) == ("undefined", "")
    ((name, setting, measure),) = tables.other_rows(rows)
    assert (name, setting, measure) == (
        "throughput",
        {"ways": 2},
        tables.Measure(8.1, None, None, 200),
    )
