"""Denoising results as tables in the layout of Table 4 of Zhu et al. 2024, the paper's rows beside
ours.
"""

from collections.abc import Sequence

from v2l_jax.metrics.results import Result
from v2l_jax.report.cells import result_cell
from v2l_jax.report.data import Table

LEAD = (
    "A language model that never saw a picture restores damaged ones. It reads words of the picture, after examples, and writes the "
    "words that are missing; the tokenizer's engine paints them. The published examples are copies of the picture's own true words "
    "with a part of them replaced at random, so the prompt holds the answer. Compare the result with the most frequent word of the "
    "examples, which needs no language model, and with another picture's examples. All but the damaged picture went through the "
    "tokenizer, so a lightly damaged one may score above the bound. LPIPS is by VGG16; the paper does not name its network."
)

ROW_LABELS = {
    "none": "Restored by the language model",
    "no_tokens": "Control: no examples",
    "shuffled": "Control: another picture's examples",
    "vote": "Control: no language model, the most frequent word of the example outputs",
    "corrupted": "The damaged picture as it is",
    "reconstruction": "Bound: the true words, decoded",
}
"""What a row shows, by its "control"; rows stand in this order."""

_METRICS = {
    "lpips": ("LPIPS, lower is better", 4, 1.0),
    "fid": ("FID, lower is better", 2, 1.0),
    "psnr": ("PSNR in dB, higher is better", 2, 1.0),
    "ssim": ("SSIM, higher is better", 3, 1.0),
    "token_accuracy": ("Words restored exactly, in % of those asked for", 1, 100.0),
}

_PAPER_COLUMNS = ("inpainting", "outpainting", "deblurring", "rotation", "shift")
_PAPER = {
    "fid": {
        "7B": (13.13, 15.28, 10.09, 10.64, 10.53),
        "13B": (11.70, 12.56, 10.60, 11.36, 11.84),
        "70B": (10.11, 10.73, 10.42, 10.48, 10.79),
    },
    "lpips": {
        "7B": (0.1219, 0.1442, 0.1033, 0.1064, 0.1058),
        "13B": (0.1134, 0.1275, 0.1085, 0.1128, 0.1176),
        "70B": (0.1021, 0.1128, 0.1058, 0.1058, 0.1093),
    },
}


def denoising_tables(results: Sequence[Result]) -> list[Table]:
    """A table for each metric that was measured: rows are controls, columns corruptions.

    Args:
      results: rows with the fields "corruption", "control" and "llm"; the undamaged bound has
        corruption "none" and stands in every column.
    """
    tables = []
    for metric, (caption, decimals, scale) in _METRICS.items():
        rows = [r for r in results if r.metric == metric]
        if not rows:
            continue
        columns = [c for c in _PAPER_COLUMNS if any(r.measured_on["corruption"] == c for r in rows)]
        body = _our_rows(rows, columns, decimals, scale) + _paper_rows(metric, columns, decimals)
        counts = sorted({r.count for r in rows})
        shown = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        tables.append(
            Table(
                f"{caption}; {shown} pictures, 95 % intervals",
                ("", *(c.capitalize() for c in columns)),
                body,
            )
        )
    return tables


def _our_rows(
    rows: Sequence[Result], columns: Sequence[str], decimals: int, scale: float
) -> list[tuple[str, ...]]:
    body = []
    llms = list(dict.fromkeys(str(r.measured_on.get("llm", "")) for r in rows))
    for llm in llms:
        for control, label in ROW_LABELS.items():
            found = {
                r.measured_on["corruption"]: result_cell(r, decimals, scale)
                for r in rows
                if r.measured_on["control"] == control and str(r.measured_on.get("llm", "")) == llm
            }
            if found:
                name = f"{label}\n{llm}" if control == "none" else label
                body.append((name, *(found.get(c) or found.get("none", "") for c in columns)))
    return body


def _paper_rows(metric: str, columns: Sequence[str], decimals: int) -> list[tuple[str, ...]]:
    return [
        (
            f"Paper: LLaMA-2 {size}\nImageNet, 5,000 pictures of 128 × 128",
            *(_paper_cell(values, c, decimals) for c in columns),
        )
        for size, values in _PAPER.get(metric, {}).items()
    ]


def _paper_cell(values: Sequence[float], column: str, decimals: int) -> str:
    return f"{values[_PAPER_COLUMNS.index(column)]:.{decimals}f}"
