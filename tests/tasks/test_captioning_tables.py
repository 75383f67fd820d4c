"""Caption scores: controls in order, a table for each setting, ConSE never called CLIP."""

from v2l_jax.metrics.results import Result
from v2l_jax.tasks.captioning_tables import captioning_lead, captioning_tables

FIELDS = dict(dataset="stamps", llm="m", tower="t", shots=10, tokens=21, vocabulary="candidates")


def rows(kind, **changes):
    made = []
    for control, value in (
        ("reference", 0.9),
        ("shuffled", 0.1),
        ("none", 0.3),
        ("nearest_word", 0.25),
        ("no_tokens", 0.05),
    ):
        fields = FIELDS | changes | {"control": control}
        metrics = ("cider", "bleu_4", "rouge_l") if control != "reference" else ()
        made += [
            Result(metric, value, 60, (value - 0.02, value + 0.02), fields)
            for metric in (*metrics, f"{kind}_score")
        ]
    return made


def test_controls_stand_in_order_and_the_true_caption_has_a_cosine_alone():
    (table,) = captioning_tables(rows("conse"), "conse")
    assert table.head == ("", "CIDEr", "BLEU-4", "ROUGE-L", "ConSE score")
    assert [row[0].partition(":")[0] for row in table.rows] == [
        "The picture's words",
        "Control",
        "Control",
        "Control",
        "The true caption",
    ]
    assert table.rows[0][1:] == ("0.300\n0.280–0.320",) * 3 + ("0.3000\n0.2800–0.3200",)
    assert table.rows[2][1].startswith("0.100") and table.rows[3][1].startswith("0.250")
    assert table.rows[4][1:] == ("–", "–", "–", "0.9000\n0.8800–0.9200")
    assert (
        table.caption.startswith("stamps: 60 pictures")
        and "10 examples, 21 words a picture of all n-grams" in table.caption
    )


def test_a_table_for_each_setting():
    tables = captioning_tables(rows("clip") + rows("clip", shots=2), "clip")
    assert (
        len(tables) == 2 and tables[0].head[4] == "CLIP score" and "2 examples" in tables[1].caption
    )


def test_conse_is_not_called_clip():
    assert "not in CLIP" in captioning_lead("conse") and "CLIP" not in captioning_lead("clip")
