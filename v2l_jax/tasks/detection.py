"""Detection as text: the language model writes the objects of an image, each with its class and its
box; what it may write is fixed by a grammar, and boxes are scored as COCO scores them.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from v2l_jax.data.boxes import BoxImages, coco_truth, read_coco_boxes, write_coco_results
from v2l_jax.errors import DataError
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.metrics.detection import average_precision, f1, matches
from v2l_jax.metrics.results import Result, Scalar
from v2l_jax.options import (
    CONTROLS,
    COUNT,
    FLAG,
    NAME,
    POSITIVE,
    SHARE,
    TEXT,
    Rule,
    each,
    number,
    one_of,
    option,
)
from v2l_jax.report.data import TaskSection
from v2l_jax.report.tables import Number, TableSpec, render
from v2l_jax.representations import fingerprint
from v2l_jax.representations.base import ImageSet, Text
from v2l_jax.run import loading
from v2l_jax.run.loading import locate
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness import costs, loop, tuned
from v2l_jax.tasks.harness.costs import cost_rows
from v2l_jax.tasks.harness.fit import check_prompts_fit, least_written
from v2l_jax.tasks.harness.learning import learnable, trained_how
from v2l_jax.tasks.harness.object_texts import DetectionTexts, ObjectText, Predicted
from v2l_jax.tasks.harness.prompts import encode

POSITION = 28
"""Where its section stands on the page."""

HELD_OUT = 20
"""Of so many images to learn from one is kept apart, for the loss that is logged."""
_PAIR = Rule(
    "a pair of texts, or ()",
    lambda v: isinstance(v, (tuple, list)) and len(v) in (0, 2) and all(map(TEXT.allows, v)),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of detection."""

    name: str = option("COCO", "what results call the set", NAME)
    asked: tuple[str, ...] = option(
        (), "(file, folder): COCO's instances of the images that are asked about, and these", _PAIR
    )
    shown: tuple[str, ...] = option((), "the same of the images to learn from", _PAIR)
    images: int = option(0, "images asked about, the first by id; 0 = all", COUNT)
    tokens: int = option(576, "words an image, at most", POSITIVE)
    question: str = option("\nObjects:", "what stands between image and objects", NAME)
    bins: int = option(
        1000, "places of a coordinate along a side of the image", number(2, 10_000, integer=True)
    )
    objects: int = option(100, "objects that are written of an image", POSITIVE)
    noise: bool = option(
        True,
        "texts to learn from are filled up with boxes of no object, and as many as `objects` are "
        "always written; False: texts end after the last object",
        FLAG,
    )
    scores: tuple[str, ...] = option(
        ("class", "mean", "rank", "constant"),
        "how boxes are ranked: by the likelihood of the class; by the geometric mean of all "
        "tokens' likelihoods; by their order; not at all",
        each(one_of("class", "mean", "rank", "constant"), least=1),
    )
    keep: float = option(0.5, "likelihood of the class that counts for F1", SHARE)
    models: tuple[str, ...] = option(
        ("tuned",),
        "'tuned' by the finetune job, 'frozen' as it is",
        each(one_of("tuned", "frozen"), least=1),
        in_row=True,
    )
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no words, and words of another image", CONTROLS, in_row=True
    )


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """For each model a row with the images' own segments, and one for each control."""
    c = config.evaluate.detection
    fixed = {"dataset": c.name, "tokens": c.tokens, "bins": c.bins, "objects": c.objects}
    if "tuned" in c.models:
        fixed["adapters"] = trained_how(config)
    return [
        {"llm_state": model, "control": control, **fixed, **fingerprint(config)}
        for model in c.models
        for control in ("none", *c.controls)
    ]


def check(config: ConfigDict) -> None:
    """Raises DataError for files that are missing or damaged, classes that are not those learnt
    from, names that cannot be told apart, and texts that cannot fit the language model.
    """
    asked, c = read_set(config, "asked"), config.evaluate.detection
    how = text_of(config, loading.text_tokenizer(config), asked)
    how.grammar()
    shown = (*least_written(config, c.tokens), Text(c.question))
    check_prompts_fit(config, "detection", [shown], how.longest)
    if "tuned" in config.evaluate.detection.models:
        shown = read_set(config, "shown")
        if shown.names != asked.names:
            other = sorted(set(shown.names) ^ set(asked.names)) or ["another order"]
            raise DataError(
                f"{asked.annotations} and {shown.annotations} have other classes "
                f"({', '.join(other[:5])}); give both the same categories"
            )


def read_set(config: ConfigDict, which: str) -> BoxImages:
    """The images of `config.evaluate.detection.asked` or `shown`.

    Raises:
      DataError: the config names none, or they cannot be read.
    """
    c = config.evaluate.detection
    if not c[which]:
        raise DataError(
            f"config.evaluate.detection.{which} names no images; give COCO's instances file and "
            "the folder of its images"
        )
    found = read_coco_boxes(*map(locate, c[which]))
    most = c.images if which == "asked" and c.images else None
    return dataclasses.replace(found, images=found.images[:most])


def text_of(config: ConfigDict, tokenizer: TextTokenizer, images: BoxImages) -> ObjectText:
    """How the objects of these images are written."""
    c = config.evaluate.detection
    return ObjectText(tokenizer, images.names, c.bins, c.objects, c.noise)


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """COCO's averages for each way to rank boxes, and F1; predictions go to the task's folder as
    COCO results files.
    """
    images, c = read_set(run.config, "asked"), run.config.evaluate.detection
    how = text_of(run.config, run.llm.tokenizer, images)
    grammar = how.grammar()
    for state in dict.fromkeys(str(setting["llm_state"]) for setting in missing):
        changed = tuned.tuned(run) if state == "tuned" else tuned.untrained(run)
        shown = ImageSet(("detection-asked", images))
        write = loop.Writer(changed, shown)
        for setting in missing:
            if setting["llm_state"] != state:
                continue
            control = str(setting["control"])
            written = write(control, c.tokens)
            prompts = [
                encode(run.llm.tokenizer, (*segments, Text(c.question)), changed.engine)
                for segments in written
            ]
            answers = changed.engine.follow(prompts, grammar, how.longest, "detecting")
            found = [
                how.read(ids, likely, one.size)
                for (ids, likely), one in zip(answers, images.images, strict=True)
            ]
            rows = scored(run, images, found, f"{state}-{control}")
            lengths = [(len(ids) + how.longest, how.longest) for ids in prompts]
            rows += cost_rows(run, shown, list(written), lengths, state == "tuned", score="none")
            run.record("detection", setting, rows)


def scored(
    run: Run, images: BoxImages, found: Sequence[Sequence[Predicted]], label: str
) -> list[Result]:
    """The rows of one setting; its predictions are written for each way to rank them."""
    c, rows = run.config.evaluate.detection, []
    truth = coco_truth(images)
    for rule in c.scores:
        ranked = [
            [(one[0], one[1], score(rule, one, i)) for i, one in enumerate(objects)]
            for objects in found
        ]
        path = run.folder("detection") / f"{label}-{rule}.json"
        written = write_coco_results(path, images.images, images.category_ids, ranked)
        for metric, value in average_precision(truth, written).items():
            rows.append(Result(metric, value, len(images), None, {"score": rule}))
    kept = [[one for one in objects if np.exp(one[2]) >= c.keep] for objects in found]
    right = sum(
        matches(
            [one[0] for one in objects],
            np.asarray([one[1] for one in objects]).reshape(-1, 4),
            one_image.classes,
            one_image.boxes,
        )
        for objects, one_image in zip(kept, images.images, strict=True)
    )
    there = sum(len(one.classes) for one in images.images)
    value = f1(right, sum(map(len, kept)), there)
    return [*rows, Result("f1", value, len(images), None, {"score": "none"})]


def score(rule: str, one: Predicted, place: int) -> float:
    """The score of a box, by which COCO ranks all boxes of a class."""
    return {
        "class": float(np.exp(one[2])),
        "mean": float(np.exp(one[3])),
        "rank": 1 - place / 100,
        "constant": 1.0,
    }[rule]


def training_texts(run: Run) -> DetectionTexts:
    """The images to learn from with their objects.

    Raises:
      DataError: a text does not fit the model's context.
    """
    images, c = read_set(run.config, "shown"), run.config.evaluate.detection
    written, features = learnable(run, ImageSet(("detection-shown", images)), c.tokens)
    rows = {"train": [], "held_out": []}
    for i, one in enumerate(images.images):
        ids = encode(run.llm.tokenizer, (*written[i], Text(c.question)))
        rows["held_out" if i % HELD_OUT == 0 else "train"].append((i, ids, one))
    texts = DetectionTexts(rows, text_of(run.config, run.llm.tokenizer, images), features)
    return texts.checked(run.llm.model.config.context_length)


TABLE = TableSpec(
    caption=(
        "{dataset}: COCO's averages in percent; {count} images; at most {objects} boxes, {bins} "
        "bins; {representation}; {llm}"
    ),
    rows=("llm_state", "control", "score"),
    columns=("metric",),
    tables=("dataset", "llm", "representation", "tokens", "bins", "objects", "adapters"),
    labels={
        "llm_state": {"tuned": "fine-tuned", "frozen": "as it is"},
        "control": {
            "none": "the image",
            "no_tokens": "control: no image",
            "shuffled": "control: another image",
        },
        "score": {
            "class": "ranked by class",
            "mean": "ranked by all tokens",
            "rank": "ranked by order",
            "constant": "not ranked",
            "none": "no ranking",
        },
        "metric": {
            "mAP": "mAP",
            "AP50": "AP at .50",
            "AP75": "AP at .75",
            "f1": "F1 at .50",
            **costs.LABELS,
        },
    },
    numbers={name: Number(1, scale=100.0) for name in ("mAP", "AP50", "AP75", "f1")}
    | costs.NUMBERS,
)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each set and representation."""
    shown = [row for row in results if row.metric in TABLE.numbers]
    lead = (
        "The language model writes the objects of an image, class and box, as text. What stands "
        "above the controls was read off the image."
    )
    return TaskSection("detection", "Detection as text", lead, tables=render(shown, TABLE))
