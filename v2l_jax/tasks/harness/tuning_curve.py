"""The loss of fine-tuning over its steps, as a figure of the task that it learnt."""

from v2l_jax.report.curves import curves_from_rows
from v2l_jax.report.plots import Line, curve_plot
from v2l_jax.run import adapters
from v2l_jax.run.run import Run
from v2l_jax.training.metric_log import read_metrics


def tuning_curve(run: Run, task: str, of: str = "an answer's token") -> list[str]:
    """The loss of what is learnt, on training and held-out texts; no figure where another task was
    learnt, or nothing yet.
    """
    path = adapters.folder(run.workdir) / "metrics.jsonl"
    if run.config.finetune.task != task or not path.exists():
        return []
    curves = curves_from_rows(read_metrics(path))
    lines = [
        Line(name, *curves[key])
        for key, name in (("train/loss", "training"), ("eval/loss", "held out"))
        if key in curves
    ]
    label = f"Cross-entropy of {of}, nats"
    return [curve_plot(label, lines, f"{task}-loss", key=True)] if lines else []
