"""How well photos come back from their words (Zhu et al. 2024, Table 3), and how much of the local codebook is used."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from v2l_jax.data.sources import WithVectors
from v2l_jax.jobs.reconstruction import score
from v2l_jax.jobs.rules import Rule
from v2l_jax.jobs.run import Run
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.report.data import TaskSection

RULES: dict[str, Rule] = {}


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """One row set: the held-out photos at the model's size."""
    return [{"split": "held-out", "image_size": config.model.image_size}]


def check(config: ConfigDict) -> None:
    """Everything it needs, other jobs make."""
    del config


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """PSNR, SSIM, LPIPS (where `train.perceptual` names its weights), codebook usage and perplexity."""
    photos, trained = run.photos.held_out, run.trained
    held_out = WithVectors(photos, run.split_features("held_out"))
    scores = score(run.config, trained.model, trained.variables, held_out, run.mesh, run.lpips)
    usage = scores.usage
    setting = missing[0] | {
        "local_tokens": usage.tokens // len(held_out),
        "global_tokens": run.config.model.global_tokens,
    }
    rows = [mean(metric, values, **setting) for metric, values in scores.per_image.items()]
    rows.append(Result("codebook_usage", usage.fraction, usage.tokens, None, setting | {"words": usage.words}))
    rows.append(Result("codebook_perplexity", usage.perplexity, usage.tokens, None, setting | {"words": usage.words}))
    run.record("reconstruction", missing[0], rows)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """None: the page has a place of its own for reconstruction."""
    del run, results
    return None
