"""Restoration tables: where rows and columns stand, and how numbers are written."""

from v2l_jax.metrics.results import Result
from v2l_jax.tasks.restoration_tables import restoration_tables


def _row(metric, value, method, control="none", ci95=None, llm="small", masked=0.3):
    return Result(
        metric,
        value,
        32,
        ci95,
        {"method": method, "control": control, "llm": llm, "masked": masked},
    )


def test_rows_are_methods_with_their_controls_and_columns_metrics():
    results = [
        _row("psnr", 12.345, "masked"),
        _row("token_accuracy", 0.01, "most_frequent"),
        _row("token_accuracy", 0.12345, "lora", ci95=(0.1, 0.15)),
        _row("psnr", float("nan"), "lora"),
        _row("token_accuracy", 0.02, "lora", "shuffled"),
    ]
    (table,) = restoration_tables(results)
    assert table.head == ("", "Hidden words restored exactly, %", "PSNR in dB")
    assert table.caption.startswith("30% of the local words hidden; small; 32 held-out pictures")
    assert [row[1:] for row in table.rows] == [
        ("12.35\n10.00–15.00", ""),
        ("2.00", ""),
        ("1.00", ""),
        ("", "12.35"),
    ]
    assert "another picture's words" in table.rows[1][0]


def test_language_models_and_shares_have_tables_of_their_own():
    results = [
        _row("ssim", v, "frozen", llm=llm, masked=m)
        for v, llm, m in ((0.1, "b", 0.3), (0.2, "a", 0.3), (0.3, "a", 0.5))
    ]
    tables = restoration_tables(results)
    assert [table.rows[0][1] for table in tables] == ["0.200", "0.300", "0.100"]
