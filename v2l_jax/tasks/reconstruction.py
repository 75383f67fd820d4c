"""How well photos come back from their words (Zhu et al. 2024, Table 3), and how much of the local
codebook is used.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from v2l_jax.data.sources import Source
from v2l_jax.metrics.fid import frechet_inception_distance
from v2l_jax.metrics.inception_score import inception_score
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.options import TEXT, option
from v2l_jax.report.data import Table, TaskSection
from v2l_jax.report.tables import Number, Published, TableSpec, render
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
    """Raises AssetError where there is no such Inception or LPIPS; the rest other jobs make."""
    for weights in (config.evaluate.reconstruction.inception, config.train.perceptual):
        if weights:
            loading.locate(weights)


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
    sizes = scores.tokens_per_image
    setting = missing[0] | {f"{stream}_tokens": count for stream, count in sizes.items()}
    setting |= {
        "tokenizer": tokenizer_name(run.config),
        "tokens": sum(sizes[stream] for stream in trained.tokenizer.decoded_streams),
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
    used = {"words": usage.words}
    rows.append(Result("effective_tokens", float(usage.used), len(photos), None, setting | used))
    if run.config.evaluate.reconstruction.inception:
        rows += _inception_rows(run, held_out, setting)
    run.record("reconstruction", missing[0], rows)


def tokenizer_name(config: ConfigDict) -> str:
    """The kind, and what it is made of where that is not the usual."""
    own = config.model.get(config.model.kind, {})
    plain = {"quantizer": "codebook", "vectors": "tower", "language_model": ""}
    chosen = [str(own[key]) for key, usual in plain.items() if own.get(key, usual) != usual]
    released = pathlib.PurePath(config.model.released).name
    return ", ".join([config.model.kind, *chosen, *([released] if released else [])])


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
    if pictures.logits is None:
        logging.warning("no IS: the Inception's weights end before its classes")
    elif len(pictures.logits) < _SPLITS:
        logging.warning("no IS: it needs %d images or more", _SPLITS)
    else:
        order = np.random.default_rng(run.config.seed).permutation(len(pictures.logits))
        rows.append(inception_score(pictures.logits[order], _SPLITS, **setting))
    return rows


_ROWS = (
    ("VQ-GAN", "learnable", 256, 5.48, 0.13, None),
    ("VQ-GAN", "PaLM-2", 256, 7.44, 0.17, None),
    ("VQ-GAN*", "LLaMA-2", 256, 9.51, 0.17, 21.48),
    ("SPAE", "PaLM-2", 341, 9.49, 0.17, None),
    ("SPAE", "PaLM-2", 597, 4.41, 0.12, None),
    ("SPAE", "PaLM-2", 1109, 3.89, 0.11, None),
    ("V2L (the paper)", "LLaMA-2", 256, 3.41, 0.08, 23.56),
    ("V2L (the paper)", "hybrid", 277, 2.88, 0.08, 23.25),
)
PUBLISHED = tuple(
    Published(
        f"{method}\n{codebook} codebook; published",
        {k: v for k, v in (("fid", fid), ("lpips", lpips), ("psnr", psnr)) if v is not None},
        {"tokens": tokens},
    )
    for method, codebook, tokens, fid, lpips, psnr in _ROWS
)
"""Table 3 of Zhu et al. 2024; the first two rows and SPAE's are SPAE's (Yu et al. 2023)."""

TABLE = TableSpec(
    caption=(
        "Ours: {dataset}, {count} photos, 95 % intervals. Published: ImageNet's validation photos "
        "at 128 × 128. FID needs thousands of photos; LPIPS is by VGG16, the paper does not name "
        "its network."
    ),
    rows=("tokenizer", "llm", "tokens"),
    columns=("metric",),
    tables=("dataset",),
    labels={
        "metric": {
            "fid": "FID",
            "lpips": "LPIPS",
            "psnr": "PSNR",
            "ssim": "SSIM",
            "inception_score": "IS",
            "effective_tokens": "Words in use",
        }
    },
    row_label="Ours: {tokenizer}\n{llm}",
    row_columns={"tokens": "Tokens"},
    all_columns=True,
    numbers={
        "fid": Number(2),
        "lpips": Number(3),
        "psnr": Number(2),
        "ssim": Number(3),
        "inception_score": Number(2),
        "effective_tokens": Number(0),
    },
    published=PUBLISHED,
)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """Table 3 of the paper with our row; the page has a place of its own for reconstruction beside
    it. None where all rows are of versions that did not say how many tokens an image has.
    """
    del run
    tables = table_3(results)
    lead = (
        "How well photos come back from their words, beside the paper's Table 3. The rows are no "
        "comparison on equal terms unless they are of ImageNet's 50,000 validation photos."
    )
    return TaskSection("reconstruction", "Table 3", lead, tables) if tables else None


def table_3(results: Sequence[Result]) -> list[Table]:
    """Our rows, then the published ones."""
    return render([r for r in results if r.metric in TABLE.numbers], TABLE)
