"""Masked restoration results as tables."""

import math
from collections.abc import Sequence

from v2l_jax.metrics.results import Result
from v2l_jax.report.cells import result_cell
from v2l_jax.report.data import Table

LEAD = (
    "A share of each held-out picture's local words is hidden, and the language model fills them in, in raster order, choosing among the "
    "local words (Fig. 8 of the paper, which gives no numbers). The fine-tuned model has LoRA adapters that were trained on the same task "
    "with the training photos; the frozen one has none. Pictures are compared with what the engine paints from all true words, so "
    "restoring every word would be perfect. Copying the nearest known word and writing the commonest word need no language model."
)

ROW_LABELS = {
    ("lora", "none"): "Language model with LoRA adapters",
    ("lora", "no_tokens"): "Control: with adapters, every word hidden",
    ("lora", "shuffled"): "Control: with adapters, another picture's words",
    ("frozen", "none"): "Frozen language model",
    ("frozen", "no_tokens"): "Control: frozen, every word hidden",
    ("frozen", "shuffled"): "Control: frozen, another picture's words",
    ("nearest", "none"): "Baseline: nearest known word",
    ("most_frequent", "none"): "Baseline: commonest word of the training photos",
    ("masked", "none"): "Nothing filled in: grey squares",
}
"""(method, control) → what a row shows; rows stand in this order."""

_COLUMNS = {
    "token_accuracy": ("Hidden words restored exactly, %", 2, 100.0),
    "hidden_word_nats": ("Cross-entropy of a hidden word in nats, lower is better", 2, 1.0),
    "lpips": ("LPIPS, lower is better", 4, 1.0),
    "psnr": ("PSNR in dB", 2, 1.0),
    "ssim": ("SSIM", 3, 1.0),
}


def restoration_tables(results: Sequence[Result]) -> list[Table]:
    """A table for each language model and share of hidden words, with 95 % intervals; rows as in
    `ROW_LABELS`.
    """
    groups = sorted({(str(r.measured_on["llm"]), float(r.measured_on["masked"])) for r in results})
    return [
        _table(
            [r for r in results if (r.measured_on["llm"], r.measured_on["masked"]) == group], *group
        )
        for group in groups
    ]


def _table(results: Sequence[Result], llm: str, masked: float) -> Table:
    columns = [metric for metric in _COLUMNS if any(r.metric == metric for r in results)]
    cells = {(r.measured_on["method"], r.measured_on["control"], r.metric): r for r in results}
    rows = [
        (label, *(_written(cells.get((*row, metric)), metric) for metric in columns))
        for row, label in ROW_LABELS.items()
        if any((*row, metric) in cells for metric in columns)
    ]
    count = max((r.count for r in results), default=0)
    caption = f"{masked:.0%} of the local words hidden; {llm}; {count:,} held-out pictures, 95 % intervals over pictures"
    return Table(caption, ("", *(_COLUMNS[metric][0] for metric in columns)), rows)


def _written(result: Result | None, metric: str) -> str:
    """A table cell; empty where nothing was measured."""
    if result is None or not math.isfinite(result.value):
        return ""
    _, decimals, scale = _COLUMNS[metric]
    return result_cell(result, decimals, scale)
