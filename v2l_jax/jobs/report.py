"""A page to open: photos, their words, what came back, and how often they were named."""

import pathlib

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from v2l_jax.assets import registry
from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.sources import Concatenated, Source, Subset
from v2l_jax.jobs import sweep, tokenize
from v2l_jax.metrics.results import Result, read_results
from v2l_jax.report.curves import curves_from_rows
from v2l_jax.report.data import (
    AssetNote,
    JobTiming,
    PhotoRow,
    PromptExample,
    ReportData,
    TaskSection,
)
from v2l_jax.report.page import render_page
from v2l_jax.representations import representation
from v2l_jax.run import building, loading
from v2l_jax.run.building import TrainedTokenizer
from v2l_jax.run.paths import assumed_path, global_path
from v2l_jax.run.reconstruction import reconstruct
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import environments, read_json
from v2l_jax.tasks import tasks
from v2l_jax.tasks.harness.classes import shown_names
from v2l_jax.tokenizers.base import TokenStreams
from v2l_jax.training.metric_log import read_metrics

PHOTOS_A_CLASS = 2
LOCAL_WORDS_SHOWN = 12


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Never: the page is cheap, and shows what is there now."""
    del config, workdir
    return False


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes report.html from whatever the other jobs have left in the workdir."""
    context = Run(config, workdir)
    photos = context.photos
    example = read_json(workdir / "evaluate" / "few_shot" / "example.json", None)
    results, metrics = read_results(workdir / "results.json"), workdir / "metrics.jsonl"
    words = global_path(workdir).exists() or representation(config).of_tower
    data = ReportData(
        results=results,
        photos=_photo_rows(context) if tokenize.is_done(config, workdir) else (),
        sections=_sections(context, results),
        curves=curves_from_rows(read_metrics(metrics)) if metrics.exists() else {},
        prompt_example=PromptExample(**example) if example else None,
        timings=[
            JobTiming(job, seconds)
            for job, seconds in read_json(workdir / "timings.json", {}).items()
        ],
        environment=environments(workdir)[-1] if environments(workdir) else {},
        assets=[
            AssetNote(a.name, a.source, a.licence)
            for a in registry.ASSETS.values()
            if a.name in _used(config)
        ],
        skipped=photos.skipped,
        tower_kind=config.tower.partition(":")[0] if words else "",
        tokenizer_road=words,
        notes=[
            f"No file beside the tower's weights says it, so it was assumed: {sentence}."
            for sentence in read_json(assumed_path(workdir), [])
        ]
        + [f"Of the folders of images, {words}." for words in photos.left_out],
    )
    path = workdir / "report.html"
    with atomic_write(path) as draft:
        draft.write_text(render_page(data), encoding="utf-8", errors="replace")
    logging.info("wrote %s", path)


def _used(config: ConfigDict) -> set[str]:
    """First path components of every text in the config: registered assets are among them."""
    values = jax.tree.leaves(config.to_dict())
    return {value.partition("/")[0] for value in values if isinstance(value, str)}


def _sections(run: Run, results: list[Result]) -> list[TaskSection]:
    """The parts of the page that measured tasks make, in the order of their POSITION, and the
    sweep's.
    """
    sections = []
    for task, module in (tasks() | {"sweep": sweep}).items():
        rows = [result for result in results if result.measured_on.get("task") == task]
        if rows:
            sections.append(module.section(run, rows))
    return [section for section in sections if section is not None]


def _photo_rows(run: Run) -> list[PhotoRow]:
    """The report's own pictures, then the first held-out photos of each class."""
    config, photos, mesh, trained = run.config, run.photos, run.mesh, run.trained
    labels = np.asarray(photos.held_out.labels)
    first = [
        i
        for label in range(len(photos.held_out.class_names))
        for i in np.flatnonzero(labels == label)[:PHOTOS_A_CLASS]
    ]
    shown: Source = Subset(photos.held_out, first)
    own = loading.report_photos(config)
    if own is not None:
        shown = Concatenated([own, shown])

    def vectors() -> np.ndarray:
        chosen = run.split_features("held_out")[first]
        return chosen if own is None else np.concatenate([run.features("report", own), chosen])

    source, rows = building.with_inputs(trained.tokenizer, shown, vectors), []
    names = shown_names(shown.class_names)
    for tokens, pictures, _ in reconstruct(
        config, trained.tokenizer, trained.variables, source, mesh
    ):
        for i, picture in enumerate(pictures):
            record = shown[len(rows)]
            rows.append(
                PhotoRow(
                    original=record["image"],
                    words=words_shown(trained, tokens, "global", i),
                    reconstruction=picture,
                    local_words=words_shown(trained, tokens, "local", i),
                    caption=names[record["label"]]
                    if record["label"] >= 0
                    else pathlib.Path(record["path"]).stem,
                )
            )
    return rows


def words_shown(trained: TrainedTokenizer, tokens: TokenStreams, book: str, row: int) -> list[str]:
    """The first words of the streams whose ids are rows of a codebook, "global" or "local", one
    stream after the other; none where no stream's are.
    """
    streams = [name for name, own in trained.tokenizer.word_streams.items() if own == book]
    words = trained.local_words if book == "local" else trained.global_words
    if words is None or not streams:
        return []
    ids = np.concatenate([np.asarray(tokens[name][row]).ravel() for name in streams])
    return [words.texts[i] for i in (ids[:LOCAL_WORDS_SHOWN] if book == "local" else ids)]
