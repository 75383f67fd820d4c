"""Table 2: our rows in order, the paper's beside a CLIP's and apart from another tower's."""

from v2l_jax.metrics.results import Result
from v2l_jax.tasks.semantic_quality_tables import semantic_quality_lead, semantic_quality_tables


def rows(kind, llm="m"):
    cells = [
        (5, "none", 0.5),
        (21, "none", 0.4),
        (5, "shuffled", 0.2),
        (21, "shuffled", 0.1),
        (1, "random", 0.05),
    ]
    fields = dict(llm=llm, tower=f"a {kind}", dataset="pets", vocabulary=12345)
    return [
        Result(
            f"{kind}_{metric}",
            value + shift,
            7,
            (value, value + 0.2),
            fields | {"tokens": tokens, "control": control},
        )
        for tokens, control, value in reversed(cells)
        for metric, shift in (("score", 0), ("r", 0.1), ("r_min_max", 0.15))
    ]


def test_a_conse_tower_is_never_called_clip_and_the_papers_rows_stand_apart():
    ours, paper = semantic_quality_tables(rows("conse"), "conse")
    assert ours.head == ("", "Words a photo", "ConSE score", "ConSE-R", "Min–max")
    assert [row[:2] for row in ours.rows] == [
        ("The photo's words\nm", "5"),
        ("The photo's words\nm", "21"),
        ("Control: another photo's words", "5"),
        ("Control: another photo's words", "21"),
        ("Control: any word, on average", "1"),
    ]
    assert ours.rows[0][2:] == (
        "0.5000\n0.5000–0.7000",
        "0.6000\n0.5000–0.7000",
        "0.6500\n0.5000–0.7000",
    )
    assert "CLIP" not in ours.caption and "7 photos of pets, 12,345 words" in ours.caption
    assert [row[1:] for row in paper.rows] == [
        ("5", "0.1868", "0.7147"), ("5", "0.2576", "0.9165"), ("21", "0.1815", "0.6901"), ("21", "0.2427", "0.8520"),
    ]  # fmt: skip
    assert "not of CLIP" in semantic_quality_lead("conse") and "ConSE" not in semantic_quality_lead(
        "clip"
    )


def test_a_clips_rows_stand_beside_the_papers():
    (table,) = semantic_quality_tables(rows("clip"), "clip")
    assert table.head[2:4] == ("CLIP score", "CLIP-R") and len(table.rows) == 9
    assert {len(row) for row in table.rows} == {5}
    assert table.rows[6][2:4] == ("0.2576", "0.9165")


def test_each_language_model_has_its_rows():
    ours, _ = semantic_quality_tables(rows("conse") + rows("conse", "other"), "conse")
    assert [row[0] for row in ours.rows].count("The photo's words\nother") == 2 and len(
        ours.rows
    ) == 10
