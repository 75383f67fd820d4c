"""How close reconstructions come, and the measurements that no task's section shows."""

from collections.abc import Iterable

from v2l_jax.metrics.results import Result
from v2l_jax.report.accuracy import METRIC
from v2l_jax.report.data import Table
from v2l_jax.report.tables import (
    Number,
    TableSpec,
    described,
    metric_label,
    render,
    setting_of,
    with_fields,
)

_UNIT = "\u00a0"
QUALITY = TableSpec(
    caption="Original against reconstruction, 95 % interval below each number. {setting}",
    tables=None,
    rows=("metric",),
    corner="Metric",
    counts="Photos",
    labels={
        "metric": {
            "psnr": "PSNR\nhigher is closer, pixel by pixel",
            "ssim": "SSIM\n1 is the same structure",
            "lpips": "LPIPS\nlower looks more alike",
            "fid": "FID\nlower is closer as a set",
            "inception_score": "IS\nhigher: each image of one class, many classes among them",
            "codebook_usage": "Codebook usage\nshare of the words that some photo uses",
            "effective_tokens": "Effective tokens\nwords that some photo uses",
        }
    },
    numbers={
        "psnr": Number(2, unit=f"{_UNIT}dB"),
        "ssim": Number(3),
        "lpips": Number(3),
        "fid": Number(2),
        "inception_score": Number(2),
        "codebook_usage": Number(1, 100.0, unit=f"{_UNIT}%"),
        "effective_tokens": Number(0),
    },
)
OTHERS = TableSpec(
    caption="95 % interval below each number", rows=("name", "on"), corner="Metric", counts="Count"
)


def quality_tables(results: Iterable[Result]) -> list[Table]:
    """Reconstruction metrics, a table for each setting."""
    return render(filter(is_reconstruction, results), QUALITY)


def other_tables(results: Iterable[Result]) -> list[Table]:
    """The results that no other table shows: metric, what it was measured on, and the number."""
    rest = (r for r in results if r.metric != METRIC and not is_reconstruction(r))
    named = [with_fields(r, name=metric_label(r.metric), on=described(setting_of(r))) for r in rest]
    return render(named, OTHERS)


def is_reconstruction(result: Result) -> bool:
    """Whether a result says how well images come back from their tokens; other tasks measure PSNR
    and the like too.
    """
    task = result.measured_on.get("task")
    return result.metric in QUALITY.numbers and task in (None, "reconstruction")
