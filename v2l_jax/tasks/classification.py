"""Classification by likelihood over the names of all classes, by the language model as it is or
fine-tuned on the training images.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from v2l_jax.errors import DataError
from v2l_jax.llm.best_names import BestNames, best_names
from v2l_jax.llm.text_tokenizers import TextTokenizer
from v2l_jax.llm.training_texts import AnswerTexts, Asked
from v2l_jax.metrics.probe import probe
from v2l_jax.metrics.results import Result, Scalar, proportion
from v2l_jax.options import CONTROLS, COUNT, FLAG, NAME, POSITIVE, each, entries, one_of, option
from v2l_jax.report.data import TaskSection
from v2l_jax.report.tables import Number, TableSpec, render
from v2l_jax.representations import fingerprint, representation
from v2l_jax.representations.base import ImageSet, Segments, Text
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness import costs, loop, tuned
from v2l_jax.tasks.harness.classes import named_labels
from v2l_jax.tasks.harness.costs import cost_rows
from v2l_jax.tasks.harness.fit import check_prompts_fit, least_written
from v2l_jax.tasks.harness.learning import learnable, trained_how
from v2l_jax.tasks.harness.looked_at import gallery, keep_looked_at
from v2l_jax.tasks.harness.prompts import Prompt, answer_ids, encode
from v2l_jax.tasks.harness.tuning_curve import tuning_curve

POSITION = 26
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of classification."""

    images: int = option(0, "held-out images asked about, drawn by the seed; 0 = all", COUNT)
    tokens: int = option(576, "words an image, at most", POSITIVE)
    question: str = option("\nThis is a photo of a", "what stands between image and name", NAME)
    models: tuple[str, ...] = option(
        ("tuned", "frozen"),
        "'tuned' on the training images by the finetune job, 'frozen' as it is",
        each(one_of("tuned", "frozen"), least=1),
        in_row=True,
    )
    calibrate: bool = option(
        False, "subtract each name's log-likelihood after the question without an image", FLAG
    )
    per_token: bool = option(False, "divide log-likelihoods by the name's tokens", FLAG)
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no words, and words of another image", CONTROLS, in_row=True
    )
    probes: bool = option(
        True, "also a linear probe of what the representation has without a language model", FLAG
    )
    looked_at: int = option(
        4, "answers of which the page shows where they look", COUNT, changes_results=False
    )
    class_names: dict[str, str] = option(
        {}, "what to call a class; WordNet ids have names already", entries(NAME)
    )


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """For each model a row with the images' own segments, and one for each control."""
    c = config.evaluate.classification
    fixed = {"tokens": c.tokens, "calibrate": c.calibrate, "per_token": c.per_token}
    if "tuned" in c.models:
        fixed["adapters"] = trained_how(config)
    asked = [(model, control) for model in c.models for control in ("none", *c.controls)]
    if c.probes:
        asked += [("no_llm", name) for name in representation(config).summary_names]
    return [
        {"llm_state": model, "control": control, **fixed, **fingerprint(config)}
        for model, control in asked
    ]


def check(config: ConfigDict) -> None:
    """Raises DataError for fewer than two classes, images of none, prompts that cannot fit, or
    classes that no training image shows, where labels are known before images are read.
    """
    photos = loading.photos(config)
    if not photos.labels_at_hand:
        return
    _, labels, names = chosen(config, photos)
    c, tokenizer = config.evaluate.classification, loading.text_tokenizer(config)
    answer = max(map(len, name_ids(tokenizer, names)))
    shown = prompt(least_written(config, c.tokens), c.question)
    check_prompts_fit(config, "classification", [shown], answer)
    if "tuned" not in config.evaluate.classification.models:
        return
    known, _ = named_labels(photos, dict(config.evaluate.classification.class_names))
    trained = set(known[: len(photos.train)].tolist())
    unseen = [names[label] for label in sorted(set(labels.tolist()) - trained)]
    if unseen:
        raise DataError(
            f"no training image shows {', '.join(unseen[:5])}, which held-out images do; the "
            "finetune job cannot learn them: lower config.data.held_out, or leave the class out"
        )


def chosen(
    config: ConfigDict, photos: loading.Photos
) -> tuple[Int[np.ndarray, " images"], Int[np.ndarray, " images"], tuple[str, ...]]:
    """The held-out images asked about, counted from the first training image, their labels, and
    the names of all classes.
    """
    c = config.evaluate.classification
    labels, names = named_labels(photos, dict(c.class_names))
    own = np.flatnonzero(labels >= 0)
    own = np.random.default_rng(config.seed).permutation(own[own >= len(photos.train)])
    if len(names) < 2 or not len(own):
        raise DataError(
            f"classification needs held-out images of two classes, but there are {len(own)} "
            f"images and {len(names)} classes"
        )
    indices = np.sort(own[: c.images or None])
    return indices, labels[indices], tuple(names)


def prompt(image: Segments, question: str) -> Prompt:
    """What is written of the image, then the question; it ends where the name begins."""
    return (*image, Text(question))


def name_ids(tokenizer: TextTokenizer, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of each name, with the end token after it."""
    return [(*answer_ids(tokenizer, name), tokenizer.eos_id) for name in names]


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Top-1 and top-5 accuracy and that of the mean class, for each model under each control."""
    indices, labels, names = chosen(run.config, run.photos)
    probes = [setting for setting in missing if setting["llm_state"] == "no_llm"]
    if probes:
        probe_all(run, probes)
    missing = [setting for setting in missing if setting["llm_state"] != "no_llm"]
    for state in dict.fromkeys(str(setting["llm_state"]) for setting in missing):
        changed = tuned.tuned(run) if state == "tuned" else tuned.untrained(run)
        own = ImageSet.own(changed)
        write = loop.Writer(changed, own)
        for setting in missing:
            if setting["llm_state"] == state:
                written = write(str(setting["control"]), int(setting["tokens"]))
                shown = [written[int(i)] for i in indices]
                found = answered(changed, shown, names)
                if state == "tuned" and setting["control"] == "none":
                    keep_answers(changed, own, indices, shown, found, names)
                rows = scored(found.names, labels, len(names))
                lengths = text_lengths(changed, shown, labels, names)
                rows += cost_rows(run, own, shown, lengths, state == "tuned", classes=len(names))
                run.record("classification", setting, rows)


def keep_answers(
    run: Run,
    images: ImageSet,
    indices: Int[np.ndarray, " images"],
    shown: Sequence[Segments],
    found: BestNames,
    names: Sequence[str],
) -> None:
    """Keeps where the first answers look, if the image's words lie somewhere."""
    c, count = run.config.evaluate.classification, run.config.evaluate.classification.looked_at
    if not count or representation(run.config).places(run, images) is None:
        return
    ids = name_ids(run.llm.tokenizer, names)
    best = found.names[:count, 0].tolist()
    prompts = [prompt(image, c.question) for image in shown[:count]]
    answers = [(names[name], ids[name]) for name in best]
    keep_looked_at(run, run.folder("classification"), indices[:count].tolist(), prompts, answers)


def probe_all(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy of linear probes on the representation's summaries of the images."""
    indices, labels, names = chosen(run.config, run.photos)
    known, _ = named_labels(run.photos, dict(run.config.evaluate.classification.class_names))
    own, written = ImageSet.own(run), representation(run.config)
    written.prepare(run, own, run.config.evaluate.classification.tokens)
    vectors = written.summaries(run, own)
    train = np.flatnonzero(known[: len(run.photos.train)] >= 0)
    for setting in missing:
        x = vectors[str(setting["control"])]
        best = probe(x[train], known[train], x[indices], run.config.seed)
        run.record("classification", setting, scored(best[:, None], labels, len(names)))


def answered(run: Run, shown: Sequence[Segments], names: Sequence[str]) -> BestNames:
    """The five likeliest names of each image."""
    c, tokenizer = run.config.evaluate.classification, run.llm.tokenizer
    ids = name_ids(tokenizer, names)
    prompts = [encode(tokenizer, prompt(image, c.question), run.engine) for image in shown]
    prior = None
    if c.calibrate:
        blank = [encode(tokenizer, prompt((), c.question))]
        prior = run.engine.score_continuations(blank, [ids], "calibrating")[0]
    return best_names(run.engine, prompts, ids, 5, prior, c.per_token, "naming")


def text_lengths(
    run: Run, shown: Sequence[Segments], labels: Int[np.ndarray, " images"], names: Sequence[str]
) -> list[tuple[int, int]]:
    """Tokens of each image's text with its true name, and of that name."""
    question, tokenizer = run.config.evaluate.classification.question, run.llm.tokenizer
    ids = name_ids(tokenizer, names)
    lengths = []
    for image, label in zip(shown, labels, strict=True):
        whole = len(encode(tokenizer, prompt(image, question), run.engine))
        lengths.append((whole + len(ids[label]), len(ids[label])))
    return lengths


def scored(
    best: Int[np.ndarray, "images five"], labels: Int[np.ndarray, " images"], classes: int
) -> list[Result]:
    """The rows of one setting."""
    right = best[:, 0] == labels
    by_class = [float(right[labels == label].mean()) for label in np.unique(labels)]
    among = int(np.sum(best == labels[:, None]))
    rows = [proportion("top1_accuracy", int(right.sum()), len(labels), classes=classes)]
    if classes > best.shape[1] > 1:
        rows.append(proportion("top5_accuracy", among, len(labels), classes=classes))
    mean_class = Result("mean_class_accuracy", float(np.mean(by_class)), len(labels))
    return [*rows, dataclasses.replace(mean_class, measured_on={"classes": classes})]


def training_texts(run: Run) -> AnswerTexts:
    """The labelled images of the run, each asked for its name.

    Raises:
      DataError: a text does not fit the model's context.
    """
    c, tokenizer = run.config.evaluate.classification, run.llm.tokenizer
    labels, names = named_labels(run.photos, dict(c.class_names))
    ids, images = name_ids(tokenizer, names), ImageSet.own(run)
    written, features = learnable(run, images, c.tokens)
    rows: dict[str, list[Asked]] = {"train": [], "held_out": []}
    for i in map(int, np.flatnonzero(labels >= 0)):
        split = "train" if i < len(run.photos.train) else "held_out"
        rows[split].append(Asked(i, encode(tokenizer, prompt(written[i], c.question)),
                                 ids[labels[i]]))  # fmt: skip
    return AnswerTexts(rows, features).checked(run.llm.model.config.context_length)


TABLE = TableSpec(
    caption=(
        "{dataset}: accuracy in percent over {classes} classes, 95 % intervals; {count} held-out "
        "images; {representation}; {llm}"
    ),
    rows=("llm_state", "control"),
    columns=("metric",),
    tables=("dataset", "llm", "classes", "representation", "tokens", "calibrate", "per_token",
            "adapters"),
    labels={
        "llm_state": {
            "tuned": "fine-tuned",
            "frozen": "as it is",
            "no_llm": "no language model",
        },
        "control": {
            "none": "the image",
            "no_tokens": "control: no image",
            "shuffled": "control: another image",
            "bag_of_words": "logistic regression on the bag of words",
            "mean_features": "linear probe of mean features",
        },
        "metric": {
            "top1_accuracy": "Top-1",
            "top5_accuracy": "Top-5",
            "mean_class_accuracy": "Mean of classes",
            **costs.LABELS,
        },
    },
    numbers={
        "top1_accuracy": Number(1, scale=100.0),
        "top5_accuracy": Number(1, scale=100.0),
        "mean_class_accuracy": Number(1, scale=100.0),
        **costs.NUMBERS,
    },
)  # fmt: skip


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each data set and representation, with controls, and the training curve."""
    lead = (
        "The language model reads an image and names it: every class name is scored by its "
        "likelihood, the end of the name included. What stands above the controls was read off "
        "the image."
    )
    shown = representation(run.config)
    return TaskSection(
        "classification",
        "Naming by likelihood",
        lead,
        tables=render(results, TABLE),
        galleries=[
            *gallery(run, run.folder("classification"), shown.places(run, ImageSet.own(run))),
            *shown.galleries(run),
        ],
        figures=tuning_curve(run, "classification"),
    )
