"""Captioning: the language model describes images from what is written of them, after ten examples
(Zhu et al. 2024, Figure 5).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from v2l_jax.data.captions import (
    CaptionedImages,
    choose_images,
    read_coco_captions,
    read_stamps,
    without,
)
from v2l_jax.errors import ConfigError, DataError
from v2l_jax.metrics.captions import caption_results, has_words, score_captions
from v2l_jax.metrics.clip_score import pair_scores
from v2l_jax.metrics.results import Result, Scalar, mean
from v2l_jax.options import CONTROLS, COUNT, NAME, POSITIVE, TEXT, one_of, option
from v2l_jax.report.data import TaskSection
from v2l_jax.report.tables import Number, TableSpec, render
from v2l_jax.representations import fingerprint
from v2l_jax.representations.base import ImageSet, Segments
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness import loop
from v2l_jax.tasks.harness.answers import Answering, Given, WrittenLine
from v2l_jax.tasks.harness.examples import (
    folder_of,
    keep_examples,
    kept_examples,
    prompt_example,
    words_of,
)
from v2l_jax.tasks.harness.fit import check_prompts_fit, least_written
from v2l_jax.tasks.harness.prompts import Prompt, example_part, input_part

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
    max_new_tokens: int = option(24, "the longest caption, in tokens", POSITIVE)
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no words, and words of another image", CONTROLS, in_row=True
    )
    pictures: int = option(12, "images kept for the report", COUNT, changes_results=False)


STOP_STRINGS = ("\n", "###")
"""A caption is one line."""

_WITHOUT_LLM = ("nearest_word", "reference")


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """A row set with the images' own segments, one for each control, and two that ask no language
    model.
    """
    c = config.evaluate.captioning
    fixed = {"dataset": c.name} | {
        key: c[key] for key in ("queries", "examples", "shots", "tokens", "max_new_tokens")
    }
    fixed |= fingerprint(config)
    return [{"control": control, **fixed} for control in ("none", *c.controls, *_WITHOUT_LLM)]


def check(config: ConfigDict) -> None:
    """Raises DataError for files that are missing or damaged, too few examples, and prompts that
    cannot fit the language model.
    """
    c, image = config.evaluate.captioning, least_written(config, config.evaluate.captioning.tokens)
    prompts = (
        caption_prompt([(image, caption) for _, caption in episode.shots], image)
        for episode in _captioned(config).episodes
    )
    check_prompts_fit(config, "captioning", prompts, c.max_new_tokens)


class _Captioned(NamedTuple):
    """Images to caption, images that are shown, and which of these each prompt shows."""

    asked: CaptionedImages
    shown: CaptionedImages
    episodes: list["CaptionEpisode"]


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
    source = without(source, has_words)
    asked, shown = choose_images(source, c.queries, c.examples, config.seed)
    return _Captioned(
        asked, shown, draw_episodes(asked.captions, shown.captions, c.shots, config.seed)
    )


@dataclasses.dataclass(frozen=True)
class CaptionEpisode:
    """Examples in the order of the prompt, and an image to caption.

    Attributes:
      shots: (example image, its caption).
      query: the image to caption.
    """

    shots: tuple[tuple[int, str], ...]
    query: int


def draw_episodes(
    queries: Sequence[Sequence[str]], examples: Sequence[Sequence[str]], shots: int, seed: int
) -> list[CaptionEpisode]:
    """Draws the examples of each query, without replacement, and one caption of each.

    An example that has a caption in common with the query is never drawn, so that no answer can be
    copied from the prompt.

    Args:
      queries: captions of each image to caption.
      examples: captions of each image that may be shown.
      shots: examples an episode.
      seed: query `i`'s draw is a function of (seed, i) and the examples alone.

    Raises:
      DataError: too few examples.
    """
    known = [{caption.casefold() for caption in captions} for captions in examples]
    episodes = []
    for query, captions in enumerate(queries):
        own = {caption.casefold() for caption in captions}
        others = [index for index, texts in enumerate(known) if not texts & own]
        if len(others) < shots:
            raise DataError(
                f"{shots} examples are asked, but there are {len(others)} images with another "
                "caption than the query's"
            )
        rng = np.random.default_rng([seed, query])
        drawn = rng.choice(others, size=shots, replace=False)
        episodes.append(
            CaptionEpisode(
                tuple(
                    (int(i), examples[int(i)][int(rng.integers(len(examples[int(i)])))])
                    for i in drawn
                ),
                query,
            )
        )
    return episodes


def caption_prompt(shots: Sequence[tuple[Segments, str]], query: Segments) -> Prompt:
    """The paper's prompt: each example with its caption, then the query without one."""
    return (
        *(part for image, caption in shots for part in example_part(image, caption)),
        *input_part(query),
    )


def make_prompts(
    episodes: Sequence[CaptionEpisode], asked: Sequence[Segments], shown: Sequence[Segments]
) -> list[Prompt]:
    """The prompt of each episode, whose indices are into the images asked about and shown."""
    return [
        caption_prompt(
            [(shown[index], caption) for index, caption in episode.shots], asked[episode.query]
        )
        for episode in episodes
    ]


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """CIDEr, BLEU-4, ROUGE-L and the tower's cosine of image and caption; all prompts are checked
    to fit before any is answered.
    """
    c, data = run.config.evaluate.captioning, _captioned(run.config)
    asked = ImageSet(("captioning-asked", data.asked))
    write_asked = loop.Writer(run, asked)
    write_shown = loop.Writer(run, ImageSet(("captioning-shown", data.shown)))

    def questions(setting: dict[str, Scalar]) -> loop.Questions:
        control = str(setting["control"])
        prompts: list[Prompt] = []
        how: Answering = WrittenLine(c.max_new_tokens, STOP_STRINGS)
        if control == "nearest_word":
            how = Given([_nearest_word(run, image) for image in write_asked("none", c.tokens)])
        elif control == "reference":
            how = Given([references[0] for references in data.asked.captions])
        else:
            written = (write(control, c.tokens) for write in (write_asked, write_shown))
            prompts = make_prompts(data.episodes, *written)

        def score(answers: list[str]) -> list[Result]:
            captions = [" ".join(answer.split()) for answer in answers]
            if control == "none":
                _keep(run, data.asked, write_asked("none", c.tokens), captions, prompts[0])
            return _rows(run, control, captions, data.asked, asked)

        suffix = "" if control == "none" else f", {control.replace('_', ' ')}"
        return loop.Questions(f"captioning{suffix}", prompts, how, score)

    loop.measure(run, "captioning", missing, questions)


def _nearest_word(run: Run, image: Segments) -> str:
    return f"A {words_of(run, image[:1])[0]}." if image else "A ."


def _rows(
    run: Run, control: str, captions: Sequence[str], asked: CaptionedImages, images: ImageSet
) -> list[Result]:
    texts = run.tower.encode_texts(list(captions), run.config.tower_options.batch_size)
    cosines = pair_scores(images.image_embeddings(run), np.asarray(texts))
    rows = [mean(f"{run.tower.kind}_score", cosines)]
    # The reference against itself has no score; it is there for its cosine.
    if control == "reference":
        return rows
    return caption_results(score_captions(captions, asked.captions)) + rows


def _keep(
    run: Run,
    asked: CaptionedImages,
    written: Sequence[Segments],
    captions: Sequence[str],
    prompt: Prompt,
) -> None:
    """Keeps the first images with their captions, and the first prompt, for the report."""
    c = run.config.evaluate.captioning
    paths = asked.paths[: c.pictures]
    examples = [
        {"words": words_of(run, written[i]), "caption": captions[i], "truth": asked.captions[i][0]}
        for i in range(len(paths))
    ]
    first = prompt_example(run, prompt, f" {captions[0]}", asked.captions[0][0])
    keep_examples(folder_of(run, "captioning", c.name), "examples", paths, examples, first)


_LEAD = (
    "A language model that never saw a picture describes pictures from their words, after a few "
    "pictures' words with their captions. Examples that share the asked picture's caption are "
    "never shown. How a caption sounds can be copied from the examples, so only what stands above "
    "the controls was read off the words: no words, and another picture's words. The nearest word "
    "with an article before it needs no language model. BLEU-4 counts runs of four words, so "
    "captions of two or three words cannot score in it."
)
_NOT_CLIP = (
    " The ConSE score is the cosine of picture and caption in a ConSE tower, not in CLIP. The "
    "tower that chose the words judges here, so where it mistakes a picture, a caption made of its "
    "words scores above the true one."
)
TABLE = TableSpec(
    caption=(
        "{dataset}: {count} pictures, 95 % intervals; {shots} examples, {tokens} words a picture; "
        "{representation}; {llm}, {tower}"
    ),
    rows=("control",),
    columns=("metric",),
    tables=("dataset", "llm", "tower", "shots", "tokens", "representation"),
    labels={
        "control": {
            "none": "The picture's words",
            "no_tokens": "Control: no words",
            "shuffled": "Control: another picture's words",
            "nearest_word": "Control: no language model, “A” and the nearest word",
            "reference": "The true caption",
        },
        "metric": {
            "cider": "CIDEr",
            "bleu_4": "BLEU-4",
            "rouge_l": "ROUGE-L",
            "clip_score": "CLIP score",
            "conse_score": "ConSE score",
        },
    },
    numbers={name: Number(3) for name in ("cider", "bleu_4", "rouge_l")}
    | {name: Number(4) for name in ("clip_score", "conse_score")},
)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each data set with its controls, images with caption and truth, and a prompt."""
    kind = run.config.tower.partition(":")[0]
    kept = [
        kept_examples(
            folder_of(run, "captioning", dataset),
            "examples",
            f"{dataset}: captions by the language model",
            _below,
        )
        for dataset in dict.fromkeys(str(row.measured_on["dataset"]) for row in results)
    ]
    return TaskSection(
        "captioning",
        "Pictures described",
        _LEAD + (_NOT_CLIP if kind == "conse" else ""),
        render(loop.with_representation(results), TABLE),
        galleries=[found[0] for found in kept if found],
        examples=[found[1] for found in kept if found],
    )


def _below(example: Mapping[str, Any]) -> str:
    caption, words = example["caption"] or "(nothing)", ", ".join(example["words"][:8])
    return f"{caption}\ntruth: {example['truth']}\nwords: {words}"
