"""Captioning: the language model describes pictures from their words, after ten examples (Zhu et
al. 2024, Figure 5).
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from PIL import Image

from v2l_jax.atomic_write import atomic_write
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.codebook.filter import first_spellings
from v2l_jax.data.captions import CaptionedImages, choose_images, read_coco_captions, read_stamps
from v2l_jax.data.images import decode_image
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import codebook
from v2l_jax.metrics.captions import caption_results, score_captions
from v2l_jax.metrics.clip_score import pair_scores
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.options import CONTROLS, COUNT, NAME, POSITIVE, TEXT, one_of, option
from v2l_jax.report.data import Gallery, Picture, PromptExample, TaskSection
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.caption_prompts import (
    CaptionEpisode,
    draw_episodes,
    make_prompts,
    write_captions,
)
from v2l_jax.tasks.captioning_tables import captioning_lead, captioning_tables
from v2l_jax.tasks.classification import shuffle_words
from v2l_jax.tasks.prompts import Words

POSITION = 50
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of captioning."""

    source: str = option(
        "coco",
        "'coco', or 'stamps': pictures with a .txt beside each, and no annotations file",
        one_of("coco", "stamps"),
    )
    annotations: str = option(
        "data/coco/annotations/captions_val2017.json", "COCO's caption JSON", TEXT
    )
    images: str = option("data/coco/val2017", "the folder of the images", NAME)
    name: str = option("coco-captions-val2017", "what results call the data set", NAME)
    queries: int = option(500, "images to caption, drawn by the seed", POSITIVE)
    examples: int = option(200, "other images, which the shots are drawn from", POSITIVE)
    shots: int = option(10, "examples a prompt", POSITIVE)
    tokens: int = option(21, "words an image", POSITIVE)
    vocabulary: str = option(
        "candidates",
        "'global': the words that the run's images chose, the paper's way; 'candidates': all of the language model's n-grams",
        one_of("global", "candidates"),
    )
    max_new_tokens: int = option(24, "the longest caption, in tokens", POSITIVE)
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no words, and words of another image", CONTROLS, in_row=True
    )
    pictures: int = option(12, "images kept for the report", COUNT, changes_results=False)


_PICTURE_SIDE = 320
_WITHOUT_LLM = ("nearest_word", "reference")


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row set with the pictures' words, one for each control, and two that ask no language model."""
    c = config.evaluate.captioning
    fixed = {"dataset": c.name} | {
        key: c[key]
        for key in ("queries", "examples", "shots", "tokens", "vocabulary", "max_new_tokens")
    }
    return [{"control": control, **fixed} for control in ("none", *c.controls, *_WITHOUT_LLM)]


def check(config: ConfigDict) -> None:
    """Raises DataError for files that are missing or damaged, and for too few examples."""
    _captioned(config)


class _Captioned(NamedTuple):
    """Pictures to caption, pictures that are shown, and which of these each prompt shows."""

    asked: CaptionedImages
    shown: CaptionedImages
    episodes: list[CaptionEpisode]


def _captioned(config: ConfigDict) -> _Captioned:
    c = config.evaluate.captioning
    if c.source == "coco":
        if not c.annotations:
            raise ConfigError(
                "config.evaluate.captioning.annotations must name COCO's caption JSON"
            )
        source = read_coco_captions(c.annotations, c.images)
    else:
        source = read_stamps(c.images)
    asked, shown = choose_images(source, c.queries, c.examples, config.seed)
    return _Captioned(
        asked, shown, draw_episodes(asked.captions, shown.captions, c.shots, config.seed)
    )


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """CIDEr, BLEU-4, ROUGE-L and the tower's cosine of picture and caption; all prompts are checked
    to fit before any is answered.
    """
    c = run.config.evaluate.captioning
    data = _captioned(run.config)
    asked_vectors, shown_vectors = (
        run.features("captioning-asked", data.asked),
        run.features("captioning-shown", data.shown),
    )
    vocabulary = _vocabulary(run)
    asked, shown = (
        run.nearest_words(vectors, c.tokens, vocabulary)
        for vectors in (asked_vectors, shown_vectors)
    )
    prompts = {
        control: make_prompts(data.episodes, *_words(control, asked, shown, run.config.seed))
        for control in (setting["control"] for setting in missing)
        if control not in _WITHOUT_LLM
    }
    encode = run.llm.tokenizer.encode_prompt
    run.engine.check_lengths(
        [encode(prompt) for group in prompts.values() for prompt in group], c.max_new_tokens
    )
    for setting in missing:
        control = setting["control"]
        if control in prompts:
            label = (
                "captioning" if control == "none" else f"captioning, {control.replace('_', ' ')}"
            )
            captions = write_captions(
                run.engine, run.llm.tokenizer, prompts[control], c.max_new_tokens, label
            )
        elif control == "nearest_word":
            captions = [f"A {words[0].strip()}." for words in asked]
        else:
            captions = [references[0] for references in data.asked.captions]
        run.record("captioning", setting, _rows(run, control, captions, data.asked, asked_vectors))
        if control == "none":
            _write_examples(run, data.asked, asked, captions, prompts[control][0])


def _vocabulary(run: Run) -> Codebook:
    """The words that may stand for a picture: those that the run's photos chose, or all that they
    were chosen from.
    """
    if run.config.evaluate.captioning.vocabulary == "global":
        return run.global_words
    candidates = Codebook.load(codebook.candidates_path(run.workdir))
    return (
        candidates.take(first_spellings(candidates.texts))
        if run.config.codebook.merge_spellings
        else candidates
    )


def _words(
    control: str, asked: list[Words], shown: list[Words], seed: int
) -> tuple[list[Words], list[Words]]:
    """The words that stand for the pictures asked about and shown."""
    if control == "no_tokens":
        return [()] * len(asked), [()] * len(shown)
    if control == "shuffled":
        return shuffle_words(asked, seed), shuffle_words(shown, seed)
    return asked, shown


def _rows(
    run: Run,
    control: str,
    captions: Sequence[str],
    asked: CaptionedImages,
    vectors: Float[np.ndarray, "images dim"],
) -> list[Result]:
    texts = run.tower.encode_texts(list(captions), run.config.tower_options.batch_size)
    rows = [mean(f"{run.tower.kind}_score", pair_scores(vectors, texts))]
    # The reference against itself has no score; it is there for its cosine.
    return (
        rows
        if control == "reference"
        else caption_results(score_captions(captions, asked.captions)) + rows
    )


def _folder(run: Run, dataset: str) -> pathlib.Path:
    """Pictures and examples of this language model and data set."""
    return run.folder("captioning") / re.sub(r"[^\w.]+", "-", f"{run.config.llm} {dataset}")


def _write_examples(
    run: Run, asked: CaptionedImages, words: Sequence[Words], captions: Sequence[str], prompt: str
) -> None:
    """Keeps the first pictures with their captions, and the first prompt, for the report."""
    c = run.config.evaluate.captioning
    folder, examples = _folder(run, c.name), []
    for i, path in enumerate(asked.paths[: c.pictures]):
        picture = Image.fromarray(decode_image(path))
        picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        with atomic_write(folder / f"{i}.png") as draft:
            picture.save(draft, format="PNG")
        shown = [word.strip() for word in words[i]]
        examples.append({"words": shown, "caption": captions[i], "truth": asked.captions[i][0]})
    first = {"prompt": prompt, "answer": f" {captions[0]}", "expected": asked.captions[0][0]}
    write_json(folder / "examples.json", {"examples": examples, "prompt": first})


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each data set with its controls, pictures with caption and truth, and a prompt."""
    kind = run.config.tower.partition(":")[0]
    galleries, prompts = [], []
    for dataset in dict.fromkeys(str(row.measured_on["dataset"]) for row in results):
        folder = _folder(run, dataset)
        kept = read_json(folder / "examples.json", None)
        if kept:
            pictures = [
                _picture(folder / f"{i}.png", example) for i, example in enumerate(kept["examples"])
            ]
            galleries.append(Gallery(f"{dataset}: captions by the language model", [pictures]))
            prompts.append(PromptExample(**kept["prompt"]))
    tables = captioning_tables(results, kind)
    return TaskSection(
        "captioning",
        "Pictures described",
        captioning_lead(kind),
        tables,
        galleries=galleries,
        examples=prompts,
    )


def _picture(path: pathlib.Path, example: dict) -> Picture:
    caption = f"{example['caption'] or '(nothing)'}\ntruth: {example['truth']}\nwords: {', '.join(example['words'][:8])}"
    return Picture(decode_image(path), caption)
