"""Denoising tables: where rows and columns stand, and how numbers are written."""

from v2l_jax.metrics.results import Result
from v2l_jax.tasks.denoising_tables import denoising_tables


def _row(metric, value, corruption, control, ci95=None, llm="small"):
    return Result(
        metric, value, 8, ci95, {"corruption": corruption, "control": control, "llm": llm}
    )


def test_layout_of_table_4():
    results = [
        _row("lpips", 0.31234, "none", "reconstruction", (0.3, 0.32)),
        _row("lpips", 0.51234, "rotation", "none", (0.4, 0.6)),
        _row("lpips", 0.7, "inpainting", "none"),
        _row("lpips", 0.9, "inpainting", "corrupted"),
        _row("token_accuracy", 0.5, "inpainting", "vote"),
        _row("pictures_changed", 1.0, "inpainting", "corrupted"),
    ]
    lpips, accuracy = denoising_tables(results)
    assert lpips.head == ("", "Inpainting", "Rotation") and "8 pictures" in lpips.caption
    assert [row[1:] for row in lpips.rows[:3]] == [
        ("0.7000", "0.5123\n0.4000–0.6000"),
        ("0.9000", ""),
        ("0.3123\n0.3000–0.3200", "0.3123\n0.3000–0.3200"),
    ]
    assert lpips.rows[0][0].endswith("\nsmall")
    assert [(row[0].split("\n")[0], *row[1:]) for row in lpips.rows[3:]] == [
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
        _row("fid", value, "shift", "none", llm=llm)
        for value, llm in ((20.0, "small"), (10.0, "large"))
    ]
    (table,) = denoising_tables(results)
    assert [row[1] for row in table.rows] == ["20.00", "10.00", "10.53", "11.84", "10.79"]
    assert [row[0].split("\n")[1] for row in table.rows[:2]] == ["small", "large"]
