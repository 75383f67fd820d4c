"""Caption scores as tables: what was shown to the language model down, metrics across."""

from collections.abc import Sequence

from v2l_jax.metrics.results import Result
from v2l_jax.report.cells import result_cell
from v2l_jax.report.data import Table

_LEAD = (
    "A language model that never saw a picture describes pictures from their words, after a few pictures' words with their captions. "
    "Examples that share the asked picture's caption are never shown. How a caption sounds can be copied from the examples, so only "
    "what stands above the controls was read off the words: no words, and another picture's words. The nearest word with an article "
    "before it needs no language model. BLEU-4 counts runs of four words, so captions of two or three words cannot score in it."
)
_NOT_CLIP = (
    " The ConSE score is the cosine of picture and caption in a ConSE tower, not in CLIP. The tower that chose the words judges here, "
    "so where it mistakes a picture, a caption made of its words scores above the true one."
)
ROW_LABELS = {
    "none": "The picture's words",
    "no_tokens": "Control: no words",
    "shuffled": "Control: another picture's words",
    "nearest_word": "Control: no language model, “A” and the nearest word",
    "reference": "The true caption",
}
"""What a row shows, by its "control"; rows stand in this order."""

_SETTING = ("dataset", "llm", "tower", "shots", "tokens", "vocabulary")
_VOCABULARIES = {"global": " of the global codebook", "candidates": " of all n-grams"}
_TOWER_NAMES = {"clip": "CLIP score", "conse": "ConSE score"}


def captioning_lead(kind: str) -> str:
    """What the numbers mean; `kind` is the tower's, "clip" or "conse"."""
    return _LEAD + (_NOT_CLIP if kind == "conse" else "")


def captioning_tables(results: Sequence[Result], kind: str) -> list[Table]:
    """A table for each data set and setting that was measured.

    Args:
      results: rows of metrics "cider", "bleu_4", "rouge_l" and "<kind>_score", with the fields
        "dataset", "llm", "tower", "shots", "tokens", "vocabulary" and "control".
      kind: "clip" or "conse".
    """
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        groups.setdefault(tuple(result.measured_on[key] for key in _SETTING), []).append(result)
    return [
        _table(dict(zip(_SETTING, setting, strict=True)), rows, kind)
        for setting, rows in groups.items()
    ]


def _table(setting: dict, rows: Sequence[Result], kind: str) -> Table:
    columns = {
        "cider": ("CIDEr", 3),
        "bleu_4": ("BLEU-4", 3),
        "rouge_l": ("ROUGE-L", 3),
        f"{kind}_score": (_TOWER_NAMES[kind], 4),
    }
    cells = {(row.measured_on["control"], row.metric): row for row in rows}
    body = [
        (
            label,
            *(
                result_cell(cells.get((control, metric)), decimals)
                for metric, (_, decimals) in columns.items()
            ),
        )
        for control, label in ROW_LABELS.items()
        if any((control, metric) in cells for metric in columns)
    ]
    caption = (
        f"{setting['dataset']}: {rows[0].count} pictures, 95 % intervals; {setting['shots']} examples, {setting['tokens']} words a picture"
        f"{_VOCABULARIES[setting['vocabulary']]}; {setting['llm']}, {setting['tower']}"
    )
    return Table(caption, ("", *(name for name, _ in columns.values())), body)
