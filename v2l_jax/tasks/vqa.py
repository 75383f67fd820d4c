"""Visual question answering: the language model answers questions about images from what is written
of them (Zhu et al. 2024, section 3.4, Figure 5).
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from v2l_jax.data.questions import (
    Question,
    QuestionImages,
    read_coco_qa,
    read_easy_vqa,
    read_vqa_v2,
    sample_questions,
)
from v2l_jax.errors import DataError
from v2l_jax.llm.training_texts import TrainingTexts
from v2l_jax.metrics.results import Result, Scalar
from v2l_jax.metrics.vqa import accuracy_by_type, score_answer, vqa_accuracy
from v2l_jax.options import CONTROLS, COUNT, FLAG, NAME, POSITIVE, TEXT, each, one_of, option
from v2l_jax.report.data import TaskSection
from v2l_jax.report.tables import Number, TableSpec, render
from v2l_jax.representations import fingerprint
from v2l_jax.representations.base import ImageSet, Segments, Text
from v2l_jax.run.loading import locate
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness import costs, loop
from v2l_jax.tasks.harness.answers import Answering, LikeliestName, WrittenLine
from v2l_jax.tasks.harness.costs import cost_rows
from v2l_jax.tasks.harness.examples import (
    folder_of,
    keep_examples,
    kept_examples,
    prompt_example,
    words_of,
)
from v2l_jax.tasks.harness.fit import check_prompts_fit, least_written
from v2l_jax.tasks.harness.learning import trained_how
from v2l_jax.tasks.harness.prompts import Prompt, answer_ids, answer_text, encode
from v2l_jax.tasks.harness.tuned import tuned, untrained
from v2l_jax.tasks.harness.tuning_curve import tuning_curve

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
        "'open' is the published way: greedy, up to the end of the line; 'closed' takes the "
        "likeliest of the set's answers",
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
    tuned: bool = option(
        False, "ask the language model that the finetune job tuned on the shown questions", FLAG
    )
    pictures: int = option(8, "images kept for the report", COUNT, changes_results=False)

    @dataclasses.dataclass(frozen=True)
    class CocoQa:
        """COCO-QA (Ren et al. 2015): folders with questions.txt, answers.txt, img_ids.txt,
        types.txt.
        """

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


STOP_STRINGS = ("\n", "Condition:", "Question:")
"""An answer is a line; a model that goes on with another example has answered."""


class QuestionSet(NamedTuple):
    """Questions that are asked, those that may be shown before them, and all answers of the set,
    most frequent first.
    """

    asked: tuple[Question, ...]
    shown: tuple[Question, ...]
    answers: tuple[str, ...]


def settings(config: ConfigDict) -> list[dict[str, Scalar]]:
    """For each set and way of answering a row set with the images' own segments, and one for each
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
    fixed |= fingerprint(config)
    if c.tuned:
        fixed["adapters"] = trained_how(config)
    return [
        {"dataset": c[name].name, "answering": answering, "control": control, **fixed}
        for name in c.sets
        for answering in c.answering
        for control in ("none", *c.controls)
    ]


def check(config: ConfigDict) -> None:
    """Raises DataError for files that are missing or damaged, too few questions to show, and
    prompts that cannot fit the language model.
    """
    c = config.evaluate.vqa
    image = least_written(config, c.tokens)
    for name in c.sets:
        asked, shown, _ = read_set(config, name)
        shots = draw_shots(asked, shown, c.shots, config.seed)
        if c.shot_choice == "similar":  # which are shown, the tower will say
            briefest = sorted(range(len(shown)), key=lambda i: len(shown[i].text))
            shots = [briefest[: c.shots]] * len(asked)
        queries, pool = ([(image, question) for question in group] for group in (asked, shown))
        answer = c.max_new_tokens if "open" in c.answering else 1
        check_prompts_fit(config, c[name].name, make_prompts(queries, pool, shots), answer)


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


def draw_shots(
    queries: Sequence[Question], pool: Sequence[Question], count: int, seed: int
) -> list[tuple[int, ...]]:
    """Examples for each query, drawn without replacement from the questions about other images.

    Args:
      queries: the questions to be answered; the i-th gets the same shots whatever follows it.
      pool: the questions that may be shown.
      count: shots of a query.
      seed: another seed gives other shots.

    Returns:
      For each query, indices into `pool` in the order of the prompt.

    Raises:
      DataError: a query has fewer than `count` questions about other images.
    """
    images = np.asarray([question.image for question in pool])
    return [
        tuple(np.random.default_rng([seed, i]).permutation(others)[:count].tolist())
        for i, others in enumerate(_about_other_images(queries, images, count))
    ]


def similar_shots(
    queries: Sequence[Question],
    pool: Sequence[Question],
    query_vectors: Float[np.ndarray, "queries dim"],
    pool_vectors: Float[np.ndarray, "pool dim"],
    count: int,
    seed: int,
) -> list[tuple[int, ...]]:
    """As `draw_shots`, but those whose question is most like the query's, the most similar last
    (Liu et al. 2022).

    Args:
      queries, pool, count: as in `draw_shots`.
      query_vectors, pool_vectors: of the questions' texts, L2-normalised; similarity is their dot
        product.
      seed: decides among questions that are equally similar, such as the same question about
        different images.

    Raises:
      DataError: as in `draw_shots`.
    """
    images = np.asarray([question.image for question in pool])
    chosen = []
    for i, others in enumerate(_about_other_images(queries, images, count)):
        shuffled = np.random.default_rng([seed, i]).permutation(others)
        # Rounding makes a tie of equal texts, whose vectors may differ in the last bits.
        similarity = np.round(pool_vectors[shuffled] @ query_vectors[i], 5)
        chosen.append(
            tuple(shuffled[np.argsort(-similarity, kind="stable")[:count]][::-1].tolist())
        )
    return chosen


def _about_other_images(
    queries: Sequence[Question], images: np.ndarray, count: int
) -> Iterator[np.ndarray]:
    """For each query, the pool's questions about other images; raises DataError for fewer than
    `count`.
    """
    for query in queries:
        others = np.flatnonzero(images != query.image)
        if len(others) < count:
            raise DataError(
                f"{count} examples were asked for, but only {len(others)} questions are about "
                "other "
                f"images than {query.image}; ask for fewer shots or give more questions to show"
            )
        yield others


class Asked(NamedTuple):
    """A question about an image as the prompt shows it.

    Attributes:
      image: what is written of the image; nothing hides that there is one.
      question: its text.
    """

    image: Segments
    question: str


def question_prompt(shots: Sequence[tuple[Asked, str]], query: Asked) -> Prompt:
    """`Condition: {image}. Question: {question} Answer: {answer}` lines, the last without its
    answer.

    A question without its mark gets one; COCO-QA's have none. Without an image the condition is
    left away.
    """
    lines: Prompt = ()
    for asked, answer in shots:
        lines += (*_question_part(asked), Text(f"{answer_text(answer)}\n"))
    return lines + _question_part(query)


def _question_part(asked: Asked) -> Prompt:
    condition = (Text("Condition: "), *asked.image, Text(". ")) if asked.image else ()
    question = asked.question.strip()
    mark = "" if question.endswith("?") else "?"
    return (*condition, Text(f"Question: {question}{mark} Answer:"))


def make_prompts(
    queries: Sequence[tuple[Segments, Question]],
    pool: Sequence[tuple[Segments, Question]],
    shots: Sequence[Sequence[int]],
) -> list[Prompt]:
    """The prompt of each query.

    Args:
      queries: what is written of the image, and the question.
      pool: the same for questions that may be shown; their most given answer is.
      shots: for each query, the shown ones as indices into `pool`.
    """
    shown = [(Asked(image, question.text), question.answer) for image, question in pool]
    return [
        question_prompt([shown[j] for j in chosen], Asked(image, question.text))
        for (image, question), chosen in zip(queries, shots, strict=True)
    ]


def answering(way: str, count: int, max_new_tokens: int, candidates: Sequence[str]) -> Answering:
    """How `count` prompts are answered: "open", the published way, is greedy decoding up to the end
    of the line; "closed" takes the likeliest candidate, which ends with the line.
    """
    if way == "open":
        return WrittenLine(max_new_tokens, STOP_STRINGS)
    return LikeliestName([tuple(candidates)] * count, end="\n")


def measure(run: Run, missing: Sequence[dict[str, Scalar]]) -> None:
    """Accuracy over all questions and by type of answer; every prompt is checked to fit before the
    first is answered.
    """
    c = run.config.evaluate.vqa
    run = tuned(run) if c.tuned else untrained(run)
    sets = {c[name].name: Asking(run, name) for name in c.sets if _wanted(c[name].name, missing)}
    loop.measure(run, "vqa", missing, lambda setting: sets[setting["dataset"]].questions(setting))


def training_texts(run: Run) -> TrainingTexts:
    """The shown questions with their answers; see `vqa_training`."""
    from v2l_jax.tasks import vqa_training

    return vqa_training.training_texts(run)


def _wanted(dataset: str, missing: Sequence[dict[str, Scalar]]) -> bool:
    return any(setting["dataset"] == dataset for setting in missing)


class Asking:
    """What the settings of one question set ask: questions, examples and written images, each made
    once.
    """

    def __init__(self, run: Run, name: str):
        c, self.run, self.set = run.config.evaluate.vqa, run, read_set(run.config, name)
        self.name = c[name].name
        asked, shown = self.set.asked, self.set.shown
        self.images = QuestionImages(asked + shown)
        self.image_set = ImageSet((f"vqa-{name}", self.images))
        self.write = loop.Writer(run, self.image_set)
        if c.shot_choice == "similar":
            texts = [question.text for question in asked + shown]
            vectors = run.tower.encode_texts(texts, run.config.tower_options.batch_size)
            of_asked, of_shown = vectors[: len(asked)], vectors[len(asked) :]
            self.shots = similar_shots(asked, shown, of_asked, of_shown, c.shots, run.config.seed)
        else:
            self.shots = draw_shots(asked, shown, c.shots, run.config.seed)

    def questions(self, setting: dict[str, Scalar]) -> loop.Questions:
        """The prompts of a setting."""
        c, control = self.run.config.evaluate.vqa, str(setting["control"])
        written = dict(zip(self.images.paths, self.write(control, c.tokens), strict=True))
        asked, shown = (
            [(written[question.image], question) for question in group]
            for group in (self.set.asked, self.set.shown)
        )
        prompts = make_prompts(asked, shown, self.shots)
        way = str(setting["answering"])

        def score(answers: list[str]) -> list[Result]:
            answers = [answer.strip() for answer in answers] if way == "open" else answers
            if control == "none":
                self._keep(way, [image for image, _ in asked], prompts[0], answers)
            truths = [question.answers for question in self.set.asked]
            types = [question.answer_type for question in self.set.asked]
            whole = vqa_accuracy(answers, truths, answer_type="all")
            rows = [whole, *accuracy_by_type(answers, truths, types)]
            return rows + (self._costs(prompts, [image for image, _ in asked]) if c.tuned else [])

        how = answering(way, len(prompts), c.max_new_tokens, self.set.answers)
        return loop.Questions(f"{setting['dataset']}, {way}, {control}", prompts, how, score)

    def _costs(self, prompts: Sequence[Prompt], written: Sequence[Segments]) -> list[Result]:
        """What the tuned model cost."""
        tokenizer, engine, lengths = self.run.llm.tokenizer, self.run.engine, []
        begins: dict[str, int] = {}
        for prompt, question, image in zip(prompts, self.set.asked, written, strict=True):
            answer = len(answer_ids(tokenizer, question.answer, "\n"))
            lengths.append((len(encode(tokenizer, prompt, engine)) + answer, answer))
            if question.image not in begins:
                two = [question_prompt((), Asked(image, text)) for text in ("is", "what")]
                alike = os.path.commonprefix([encode(tokenizer, prompt, engine) for prompt in two])
                begins[question.image] = len(alike)
        begin = float(np.mean([begins[question.image] for question in self.set.asked]))
        return cost_rows(self.run, self.image_set, written, lengths, True, begin)

    def _keep(
        self, way: str, written: Sequence[Segments], prompt: Prompt, answers: Sequence[str]
    ) -> None:
        """Keeps the first questions with their images, and the first prompt, for the report."""
        asked = self.set.asked[: self.run.config.evaluate.vqa.pictures]
        examples = [
            {
                "words": words_of(self.run, image),
                "question": question.text,
                "answer": answer,
                "truth": question.answer,
                "score": score_answer(answer, question.answers),
            }
            for question, image, answer in zip(asked, written, answers)
        ]
        first = prompt_example(self.run, prompt, f" {answers[0]}", self.set.asked[0].answer)
        paths = [question.image for question in asked]
        keep_examples(folder_of(self.run, "vqa", self.name), way, paths, examples, first)


_LEAD = (
    "A language model that never saw a picture answers questions about pictures from their words "
    "alone, after a few examples. Much of an answer can be guessed from the question, so only what "
    "stands above the controls was read off the words: without words, and with another picture's "
    "words. Open answers are generated and count if they are the true one after the published "
    "normalisation; closed ones are the likeliest of the set's answers."
)
_DRAWN_SHAPES = (
    " The pictures of easy-VQA are drawn shapes. A ConSE tower names photographed things and sees "
    "neither their form nor their colour, so its rows show what the questions alone give away."
)
TABLE = TableSpec(
    caption=(
        "{dataset}: accuracy with 95 % intervals; examples: {shots}, {shot_choice}; {tokens} words "
        "a picture; {representation}; {llm}, {tower}"
    ),
    rows=("answering", "control"),
    columns=("answer_type",),
    tables=("dataset", "llm", "tower", "shots", "shot_choice", "tokens", "representation"),
    labels={
        "answering": {"open": "Open answers", "closed": "Closed answers"},
        "control": {
            "none": "the picture's words",
            "no_tokens": "control: no words",
            "shuffled": "control: another picture's words",
        },
        "answer_type": {"all": "All", "yes/no": "Yes/no"},
        "shot_choice": {"random": "drawn by the seed", "similar": "the most similar questions"},
    },
    counts_in_head=True,
    numbers={"vqa_accuracy": Number(2)},
)
TUNED_TABLE = dataclasses.replace(
    TABLE,
    caption=f"{TABLE.caption}; fine-tuned: {{adapters}}",
    tables=(*(TABLE.tables or ()), "adapters"),
)
COST_TABLE = TableSpec(
    caption="{dataset}: what this costs; {representation}; {llm}; fine-tuned: {adapters}",
    rows=("control",),
    columns=("metric",),
    tables=("dataset", "llm", "representation", "adapters"),
    labels={"control": TABLE.labels["control"], "metric": costs.LABELS},
    numbers=costs.NUMBERS,
)


def section(run: Run, results: Sequence[Result]) -> TaskSection | None:
    """A table for each set with its controls, images with question, answer and truth, and a
    prompt.
    """
    on = [result.measured_on for result in results]
    blind = any("easy" in str(o["dataset"]) and str(o["tower"]).startswith("conse") for o in on)
    kept = [
        kept_examples(folder_of(run, "vqa", dataset), way, f"{dataset}, {way} answers", _below)
        for dataset in dict.fromkeys(str(o["dataset"]) for o in on)
        for way in ("open", "closed")
    ]
    found = [pair for pair in kept if pair]
    rows = loop.with_representation(results)
    spent = [row for row in rows if row.metric in costs.NUMBERS]
    rows = [row for row in rows if row.metric not in costs.NUMBERS]
    adapted = [row for row in rows if "adapters" in row.measured_on]
    plain = [row for row in rows if "adapters" not in row.measured_on]
    return TaskSection(
        "vqa",
        "Questions about pictures",
        _LEAD + (_DRAWN_SHAPES if blind else ""),
        render(plain, TABLE) + render(adapted, TUNED_TABLE) + render(spent, COST_TABLE),
        galleries=[gallery for gallery, _ in found],
        figures=tuning_curve(run, "vqa"),
        examples=[prompt for _, prompt in found[:1]],
    )


def _below(example: Mapping[str, Any]) -> str:
    mark = "✓" if example["score"] >= 0.5 else f"✗ (truth: {example['truth']})"
    answer, words = example["answer"] or "(nothing)", ", ".join(example["words"][:8])
    return f"{example['question']}\n{answer} {mark}\nwords: {words}"
