"""How well photos come back from their words (Zhu et al. 2024, Table 3), and how much of the local
codebook is used.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from v2l_jax.data.sources import Source
from v2l_jax.metrics.fid import frechet_inception_distance
from v2l_jax.metrics.inception_score import inception_score
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.options import TEXT, option
from v2l_jax.report.data import TaskSection
from v2l_jax.run import building, loading
from v2l_jax.run.reconstruction import inception_of_pairs, score
from v2l_jax.run.run import Run
from v2l_jax.towers.inception import load_inception

POSITION = 10
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of reconstruction."""

    inception: str = option(
        "", "weights of FID's and IS's Inception (such as inception-v3-fid); '' = neither", TEXT
    )


_SPLITS = 10


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """One row set: the held-out photos at the model's size."""
    inception = config.evaluate.reconstruction.inception
    return [
        {"split": "held-out", "image_size": config.model.image_size}
        | ({"inception": inception} if inception else {})
    ]


def check(config: ConfigDict) -> None:
    """Everything it needs, other jobs make."""
    del config


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """PSNR, SSIM, LPIPS (where `train.perceptual` names its weights), FID and IS (where an
    Inception is), codebook usage, perplexity.
    """
    photos, trained = run.photos.held_out, run.trained
    held_out = building.with_inputs(
        trained.tokenizer, photos, lambda: run.split_features("held_out")
    )
    scores = score(run.config, trained.tokenizer, trained.variables, held_out, run.mesh, run.lpips)
    usage = scores.usage
    setting = missing[0] | {
        f"{stream}_tokens": count for stream, count in scores.tokens_per_image.items()
    }
    rows = [mean(metric, values, **setting) for metric, values in scores.per_image.items()]
    rows.append(
        Result(
            "codebook_usage", usage.fraction, usage.tokens, None, setting | {"words": usage.words}
        )
    )
    rows.append(
        Result(
            "codebook_perplexity",
            usage.perplexity,
            usage.tokens,
            None,
            setting | {"words": usage.words},
        )
    )
    if run.config.evaluate.reconstruction.inception:
        rows += _inception_rows(run, held_out, setting)
    run.record("reconstruction", missing[0], rows)


def _inception_rows(run: Run, held_out: Source, setting: Mapping[str, Scalar]) -> list[Result]:
    """FID of the reconstructions; their IS too where the weights go on to Inception's logits, and
    there are enough of them.
    """
    params = load_inception(loading.locate(run.config.evaluate.reconstruction.inception))
    trained = run.trained
    photos, pictures = inception_of_pairs(
        run.config, trained.tokenizer, trained.variables, held_out, run.mesh, params
    )
    rows = [frechet_inception_distance(photos.features, pictures.features, paired=True, **setting)]
    if pictures.logits is not None and len(pictures.logits) >= _SPLITS:
        order = np.random.default_rng(run.config.seed).permutation(len(pictures.logits))
        rows.append(inception_score(pictures.logits[order], _SPLITS, **setting))
    return rows


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """None: the page has a place of its own for reconstruction."""
    del run, results
    return None
