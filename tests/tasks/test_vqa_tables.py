"""Question-answering rows as tables: one a setting, controls below, types of answer across."""

from v2l_jax.metrics.results import Result
from v2l_jax.tasks.vqa_tables import lead, vqa_tables

SETTING = {
    "dataset": "photos",
    "llm": "tiny",
    "tower": "conse",
    "shots": 4,
    "shot_choice": "random",
    "tokens": 21,
}


def _row(value, count, answering="open", control="none", answer_type="all", **changes):
    fields = (
        SETTING | {"answering": answering, "control": control, "answer_type": answer_type} | changes
    )
    return Result("vqa_accuracy", value, count, (value - 0.1, value + 0.1), fields)


def test_rows_are_controls_and_columns_types():
    rows = [
        _row(0.5, 20),
        _row(0.25, 8, answer_type="color"),
        _row(0.3, 20, control="shuffled"),
        _row(0.75, 12, answer_type="number"),
    ]
    rows += [_row(0.8, 20, answering="closed")]
    (table,) = vqa_tables(rows)
    assert list(table.head) == ["", "All (20)", "Color (8)", "Number (12)"]
    assert [list(row) for row in table.rows] == [
        [
            "Open answers\nthe picture's words",
            "0.50\n0.40–0.60",
            "0.25\n0.15–0.35",
            "0.75\n0.65–0.85",
        ],
        ["Open answers\ncontrol: another picture's words", "0.30\n0.20–0.40", "–", "–"],
        ["Closed answers\nthe picture's words", "0.80\n0.70–0.90", "–", "–"],
    ]
    assert all(
        part in table.caption for part in ("photos", "4 examples", "21 words", "tiny", "conse")
    )


def test_each_setting_has_its_table():
    rows = [
        _row(0.5, 20),
        _row(0.6, 20, dataset="shapes"),
        _row(0.7, 20, llm="large"),
        _row(0.4, 20, shot_choice="similar"),
    ]
    assert [table.rows[0][1].splitlines()[0] for table in vqa_tables(rows)] == [
        "0.50",
        "0.60",
        "0.70",
        "0.40",
    ]
    assert "most similar" in vqa_tables(rows)[3].caption


def test_the_lead_says_what_the_tower_cannot_see():
    assert "drawn shapes" in lead([_row(0.5, 20), _row(0.5, 20, dataset="easy-VQA")])
    assert "drawn shapes" not in lead([_row(0.5, 20)]) + lead(
        [_row(0.5, 20, dataset="easy-VQA", tower="ViT-L-14")]
    )
