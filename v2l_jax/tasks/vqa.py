"""Visual question answering: the language model answers questions about pictures from their words
(Zhu et al. 2024, Fig. 5).
"""

import dataclasses
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.images import decode_image
from v2l_jax.data.questions import (
    Question,
    QuestionImages,
    read_coco_qa,
    read_easy_vqa,
    read_vqa_v2,
    sample_questions,
)
from v2l_jax.metrics.results import Result, Scalar
from v2l_jax.metrics.vqa import accuracy_by_type, score_answer, vqa_accuracy
from v2l_jax.options import CONTROLS, COUNT, NAME, POSITIVE, TEXT, each, one_of, option
from v2l_jax.report.data import Gallery, Picture, PromptExample, TaskSection
from v2l_jax.run.loading import locate
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.classification import shuffle_words
from v2l_jax.tasks.prompts import Words
from v2l_jax.tasks.question_answering import (
    answer_closed,
    answer_open,
    draw_shots,
    make_prompts,
    similar_shots,
)
from v2l_jax.tasks.vqa_tables import lead, vqa_tables

POSITION = 60
"""Where its section stands on the page."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of visual question answering."""

    sets: tuple[str, ...] = option(
        ("coco_qa", "easy_vqa"),
        "question sets, of those below",
        each(one_of("coco_qa", "easy_vqa", "vqa_v2"), least=1),
        in_row=True,
    )
    questions: int = option(
        300, "of each set, drawn by the seed, where it has more; 0 = all", COUNT
    )
    shown_questions: int = option(200, "questions that examples are drawn from; 0 = all", COUNT)
    shots: int = option(5, "examples a prompt", COUNT)
    shot_choice: str = option(
        "random",
        "'random', or 'similar': the questions most alike by the tower's text side",
        one_of("random", "similar"),
    )
    tokens: int = option(21, "words an image", POSITIVE)
    answering: tuple[str, ...] = option(
        ("open", "closed"),
        "'open' is the published way: greedy, up to the end of the line; 'closed' takes the likeliest of the set's answers",
        each(one_of("open", "closed"), least=1),
        in_row=True,
    )
    max_new_tokens: int = option(10, "the longest open answer, in tokens", POSITIVE)
    candidates: int = option(
        0, "'closed' chooses among the set's so many most frequent answers; 0 = all", COUNT
    )
    controls: tuple[str, ...] = option(
        ("no_tokens", "shuffled"), "no words, and words of another image", CONTROLS, in_row=True
    )
    pictures: int = option(8, "images kept for the report", COUNT, changes_results=False)

    @dataclasses.dataclass(frozen=True)
    class CocoQa:
        """COCO-QA (Ren et al. 2015): folders with questions.txt, answers.txt, img_ids.txt, types.txt."""

        name: str = option("COCO-QA sample", "what results call the set", NAME)
        asked: tuple[str, ...] = option(
            ("coco-qa-sample/cocoqa-2015-05-17/train", "coco-qa-sample/cocoqa-2015-05-17/test"),
            "folders of the questions that are asked",
            each(NAME, least=1),
        )
        shown: tuple[str, ...] = option(
            ("coco-qa-sample/cocoqa-2015-05-17/train", "coco-qa-sample/cocoqa-2015-05-17/test"),
            "folders of the questions that examples are drawn from",
            each(NAME, least=1),
        )
        images: str = option("coco-qa-sample/images", "the folder of the images", NAME)

    @dataclasses.dataclass(frozen=True)
    class EasyVqa:
        """easy-VQA: coloured shapes on white."""

        name: str = option("easy-VQA", "what results call the set", NAME)
        asked: str = option("easy-vqa/test", "the questions that are asked", NAME)
        shown: str = option("easy-vqa/train", "the questions that examples are drawn from", NAME)

    @dataclasses.dataclass(frozen=True)
    class VqaV2:
        """VQA v2 (Goyal et al. 2017): questions file, annotations file, folder of COCO images."""

        name: str = option("VQA v2", "what results call the set", NAME)
        asked: tuple[str, ...] = option(("", "", ""), "what is asked", each(TEXT))
        shown: tuple[str, ...] = option(("", "", ""), "what examples are drawn from", each(TEXT))


_PICTURE_SIDE = 320


class QuestionSet(NamedTuple):
    """Questions that are asked, those that may be shown before them, and all answers of the set,
    most frequent first.
    """

    asked: tuple[Question, ...]
    shown: tuple[Question, ...]
    answers: tuple[str, ...]


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """For each set and way of answering a row set with the pictures' words, and one for each
    control.
    """
    c = config.evaluate.vqa
    fixed = {
        key: c[key]
        for key in (
            "questions",
            "shown_questions",
            "shots",
            "shot_choice",
            "tokens",
            "max_new_tokens",
            "candidates",
        )
    }
    return [
        {"dataset": c[name].name, "answering": answering, "control": control, **fixed}
        for name in c.sets
        for answering in c.answering
        for control in ("none", *c.controls)
    ]


def check(config: ConfigDict) -> None:
    """Raises DataError for files that are missing or damaged, and for too few questions to show."""
    for name in config.evaluate.vqa.sets:
        questions = read_set(config, name)
        draw_shots(questions.asked, questions.shown, config.evaluate.vqa.shots, config.seed)


def read_set(config: ConfigDict, name: str) -> QuestionSet:
    """The questions of `config.evaluate.vqa.<name>`, as many as the config asks for, drawn by the
    seed.
    """
    c = config.evaluate.vqa
    asked, shown = _READERS[name](c[name])
    counts = Counter(question.answer for question in asked + shown)
    answers = sorted(counts, key=lambda answer: (-counts[answer], answer))
    return QuestionSet(
        sample_questions(asked, c.questions, config.seed),
        sample_questions(shown, c.shown_questions, config.seed + 1),
        tuple(answers[: c.candidates or None]),
    )


def _coco_qa(c: ConfigDict) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    images = locate(c.images)
    asked, shown = (
        tuple(question for folder in folders for question in read_coco_qa(locate(folder), images))
        for folders in (c.asked, c.shown)
    )
    return asked, shown


def _easy_vqa(c: ConfigDict) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    return read_easy_vqa(locate(c.asked)), read_easy_vqa(locate(c.shown))


def _vqa_v2(c: ConfigDict) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    asked, shown = (read_vqa_v2(*map(locate, paths)) for paths in (c.asked, c.shown))
    return asked, shown


_READERS: dict[str, Callable[[ConfigDict], tuple[tuple[Question, ...], tuple[Question, ...]]]] = {
    "coco_qa": _coco_qa,
    "easy_vqa": _easy_vqa,
    "vqa_v2": _vqa_v2,
}


class _Task(NamedTuple):
    """Prompts of a set under one control."""

    setting: dict[str, Scalar]
    questions: QuestionSet
    prompts: list[str]
    words: list[Words | None]


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy over all questions and by type of answer; every prompt is checked to fit before the
    first is answered.
    """
    c = run.config.evaluate.vqa
    tasks = []
    for name in c.sets:
        if wanted := [setting for setting in missing if setting["dataset"] == c[name].name]:
            tasks += _tasks(run, name, wanted)
    tokenizer = run.llm.tokenizer
    run.engine.check_lengths(
        [tokenizer.encode_prompt(text) for task in tasks for text in task.prompts], c.max_new_tokens
    )
    for task in tasks:
        label = ", ".join(str(task.setting[key]) for key in ("dataset", "answering", "control"))
        if task.setting["answering"] == "open":
            answers = answer_open(run.engine, tokenizer, task.prompts, c.max_new_tokens, label)
        else:
            answers = answer_closed(
                run.engine, tokenizer, task.prompts, task.questions.answers, label
            )
        truths = [question.answers for question in task.questions.asked]
        types = [question.answer_type for question in task.questions.asked]
        rows = [
            vqa_accuracy(answers, truths, answer_type="all"),
            *accuracy_by_type(answers, truths, types),
        ]
        run.record("vqa", task.setting, rows)
        if task.setting["control"] == "none":
            _write_examples(run, task, answers)


def _tasks(run: Run, name: str, wanted: Sequence[dict[str, Scalar]]) -> list[_Task]:
    c, seed = run.config.evaluate.vqa, run.config.seed
    questions = read_set(run.config, name)
    asked, shown = questions.asked, questions.shown
    images = QuestionImages(asked + shown)
    words = run.nearest_words(run.features(f"vqa-{name}", images), c.tokens)
    shown_words = {
        "none": words,
        "shuffled": shuffle_words(words, seed),
        "no_tokens": [None] * len(words),
    }
    if c.shot_choice == "similar":
        vectors = run.tower.encode_texts(
            [question.text for question in asked + shown], run.config.tower_options.batch_size
        )
        shots = similar_shots(
            asked, shown, vectors[: len(asked)], vectors[len(asked) :], c.shots, seed
        )
    else:
        shots = draw_shots(asked, shown, c.shots, seed)
    tasks = []
    for setting in wanted:
        of_image = dict(zip(images.paths, shown_words[setting["control"]], strict=True))
        with_words = lambda group: [(of_image[question.image], question) for question in group]
        prompts = make_prompts(with_words(asked), with_words(shown), shots)
        tasks.append(
            _Task(setting, questions, prompts, [of_image[question.image] for question in asked])
        )
    return tasks


def _folder(run: Run, dataset: str) -> pathlib.Path:
    """Pictures and examples of this language model and data set."""
    return run.folder("vqa") / re.sub(r"[^\w.]+", "-", f"{run.config.llm} {dataset}")


def _write_examples(run: Run, task: _Task, answers: Sequence[str]) -> None:
    """Keeps the first questions with their pictures, and the first prompt, for the report."""
    folder = _folder(run, str(task.setting["dataset"]))
    folder.mkdir(exist_ok=True)
    asked = task.questions.asked[: run.config.evaluate.vqa.pictures]
    examples = []
    for i, (question, words, answer) in enumerate(zip(asked, task.words, answers)):
        picture = Image.fromarray(decode_image(question.image))
        picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
        with atomic_write(folder / f"{i}.png") as path:
            picture.save(path, format="PNG")
        examples.append(
            {
                "words": [word.strip() for word in words or ()],
                "question": question.text,
                "answer": answer,
                "truth": question.answer,
                "score": score_answer(answer, question.answers),
            }
        )
    prompt = {
        "prompt": task.prompts[0],
        "answer": f" {answers[0]}",
        "expected": task.questions.asked[0].answer,
    }
    write_json(
        folder / f"{task.setting['answering']}.json", {"examples": examples, "prompt": prompt}
    )


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each set with its controls, pictures with question, answer and truth, and a
    prompt.
    """
    galleries, prompts = [], []
    for dataset in dict.fromkeys(str(row.measured_on["dataset"]) for row in results):
        folder = _folder(run, dataset)
        for answering in ("open", "closed"):
            kept = read_json(folder / f"{answering}.json", None)
            if kept:
                pictures = [
                    _picture(folder / f"{i}.png", example)
                    for i, example in enumerate(kept["examples"])
                ]
                galleries.append(Gallery(f"{dataset}, {answering} answers", [pictures]))
                prompts.append(PromptExample(**kept["prompt"]))
    return TaskSection(
        "vqa",
        "Questions about pictures",
        lead(results),
        vqa_tables(results),
        galleries=galleries,
        examples=prompts[:1],
    )


def _picture(path: pathlib.Path, example: dict) -> Picture:
    mark = "✓" if example["score"] >= 0.5 else f"✗ (truth: {example['truth']})"
    caption = f"{example['question']}\n{example['answer'] or '(nothing)'} {mark}\nwords: {', '.join(example['words'][:8])}"
    return Picture(np.asarray(Image.open(path).convert("RGB")), caption)
