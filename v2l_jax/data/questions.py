"""Questions about images: VQA v2 (JSON), COCO-QA (text files) and easy-VQA (JSON) read into one
kind of record.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from v2l_jax.data.image_files import walk
from v2l_jax.data.images import EXTENSIONS, decode_image
from v2l_jax.data.sources import Record
from v2l_jax.errors import DataError
from v2l_jax.formats.text_files import read_json, read_text

StrPath = str | os.PathLike

COCO_QA_TYPES = ("object", "number", "color", "location")
_EASY_VQA_SHAPES = frozenset({"circle", "rectangle", "triangle"})


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about an image.

    Attributes:
      image: path of the image file.
      text: the question as published.
      answers: the only true answer, or what each of several people answered (VQA v2: ten).
      answer_type: VQA v2: "yes/no", "number" or "other"; COCO-QA: one of COCO_QA_TYPES; easy-VQA:
        "yes/no", "shape" or "color".
      question_type: how a VQA v2 question begins ("what color is the"); empty elsewhere.
    """

    image: str
    text: str
    answers: tuple[str, ...]
    answer_type: str
    question_type: str = ""

    @property
    def answer(self) -> str:
        """The answer most people gave; the earliest given of several."""
        return max(self.answers, key=self.answers.count)


def read_vqa_v2(questions: StrPath, annotations: StrPath, images: StrPath) -> tuple[Question, ...]:
    """Reads VQA v1 or v2 on COCO images: the published OpenEnded questions file and its
    annotations.

    Args:
      questions: for example v2_OpenEnded_mscoco_val2014_questions.json.
      annotations: for example v2_mscoco_val2014_annotations.json.
      images: the folder of COCO_val2014_000000000042.jpg and so on, or one above it.

    Raises:
      DataError: names the file, and the line or question, that is missing, damaged, or refers to an
        absent image.
    """
    asked, answered = _read_json(questions), _read_json(annotations)
    files = _image_files(images)
    by_question = {
        _key(row, "question_id", annotations): row
        for row in _listed(answered, "annotations", annotations)
    }
    subset = str(_field(asked, "data_subtype", questions)).replace("test-dev", "test")
    records = []
    for row in _listed(asked, "questions", questions):
        number = _key(row, "question_id", questions)
        where = f"{questions}, question {number}"
        if number not in by_question:
            raise DataError(
                f"{where} has no annotation in {annotations}; give the annotations of the same "
                "subset"
            )
        annotation, answers = by_question[number], f"{annotations}, question {number}"
        image = f"COCO_{subset}_{_image_number(row, where):012d}.jpg"
        people = tuple(
            str(_key(person, "answer", answers))
            for person in _listed(annotation, "answers", answers)
        )
        if not people:
            raise DataError(f"{answers} lists no answer")
        kinds = [str(_field(annotation, key, answers)) for key in ("answer_type", "question_type")]
        records.append(
            Question(
                _find(image, files, images, where),
                str(_field(row, "question", where)),
                people,
                *kinds,
            )
        )
    return _not_empty(records, questions)


def read_coco_qa(folder: StrPath, images: StrPath) -> tuple[Question, ...]:
    """Reads a COCO-QA split (Ren et al. 2015): questions.txt, answers.txt, img_ids.txt and
    types.txt, a line a question.

    Args:
      folder: holds the four files.
      images: the folder of the COCO images, or one above it; files end in the image's id
        ("…_000000299254.jpg").

    Raises:
      DataError: names the file and line that is missing, empty, no number, or refers to an absent
        image.
    """
    paths = [
        pathlib.Path(folder) / name
        for name in ("questions.txt", "answers.txt", "img_ids.txt", "types.txt")
    ]
    columns = [_read_lines(path) for path in paths]
    for path, lines in zip(paths, columns, strict=True):
        if len(lines) != len(columns[0]):
            raise DataError(
                f"{path} has {len(lines)} lines where {paths[0].name} has {len(columns[0])}; "
                "download them again"
            )
    files = {_coco_id(name): path for name, path in _image_files(images).items()}
    records = []
    for line, row in enumerate(zip(*columns, strict=True), 1):
        for path, value in zip(paths, row, strict=True):
            if not value:
                raise DataError(f"{path}, line {line} is empty")
        text, answer, image, kind = row
        if not image.isdecimal():
            raise DataError(f"{paths[2]}, line {line}: {image!r} is not the number of an image")
        if kind not in tuple("0123"):
            raise DataError(f"{paths[3]}, line {line}: {kind!r} is not a type from 0 to 3")
        image = _find(int(image), files, images, f"{paths[2]}, line {line}")
        records.append(Question(image, text, (answer,), COCO_QA_TYPES[int(kind)]))
    return _not_empty(records, paths[0])


def read_easy_vqa(folder: StrPath) -> tuple[Question, ...]:
    """Reads an easy-VQA split (V. Zhou 2019): questions.json, a list of [question, answer, image
    number], and images/.

    Raises:
      DataError: names the file, and the line or entry, that is missing, damaged, or refers to an
        absent image.
    """
    path = pathlib.Path(folder) / "questions.json"
    images = path.parent / "images"
    rows, files = _read_json(path, list), _image_files(images)
    records = []
    for number, row in enumerate(rows, 1):
        where = f"{path}, entry {number}"
        if not (isinstance(row, list) and [type(value) for value in row] == [str, str, int]):
            raise DataError(f"{where} is not of the form [question, answer, image number]")
        text, answer, image = row
        kind = (
            "yes/no"
            if answer in ("yes", "no")
            else "shape"
            if answer in _EASY_VQA_SHAPES
            else "color"
        )
        records.append(Question(_find(f"{image}.png", files, images, where), text, (answer,), kind))
    return _not_empty(records, path)


def answers_by_image(questions: Iterable[Question]) -> dict[str, tuple[str, ...]]:
    """Path → what different questions answer about an image but yes and no, each answer once."""
    found: dict[str, dict[str, None]] = {}
    for question in questions:
        if question.answer not in ("yes", "no"):
            found.setdefault(question.image, {})[question.answer] = None
    return {path: tuple(answers) for path, answers in found.items()}


def sample_questions(questions: Sequence[Question], most: int, seed: int) -> tuple[Question, ...]:
    """Draws different questions, spread over as many images as there are, so that they are near to
    independent.

    Args:
      questions: to draw from.
      most: how many; all, in the order given, if it is 0 or there are no more than that.
      seed: another seed gives another sample; a smaller one is a beginning of a larger one.
    """
    if not most or most >= len(questions):
        return tuple(questions)
    rounds: dict[str, int] = {}
    drawn = []
    for i in np.random.default_rng(seed).permutation(len(questions)):
        question = questions[i]
        rounds[question.image] = rounds.get(question.image, -1) + 1
        drawn.append((rounds[question.image], question))
    drawn.sort(key=lambda pair: pair[0])
    return tuple(question for _, question in drawn[:most])


class QuestionImages:
    """The images of some questions, each once, in order of first appearance: a Source without
    classes.

    Attributes:
      paths: their files.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, questions: Iterable[Question]):
        self.paths = tuple(dict.fromkeys(question.image for question in questions))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """-1 for each image."""
        return np.full(len(self.paths), -1, np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        path = self.paths[index]
        return {"image": decode_image(path), "label": -1, "path": path}


def _read_json(path: StrPath, kind: type[dict] | type[list] = dict) -> Any:
    _require(pathlib.Path(path), "see v2l_jax/data/questions.py for what each set consists of")
    return read_json(path, DataError, kind)


def _read_lines(path: pathlib.Path) -> list[str]:
    _require(path, "a COCO-QA split has questions.txt, answers.txt, img_ids.txt, types.txt")
    return [line.strip() for line in read_text(path, DataError).splitlines()]


def _require(path: pathlib.Path, remedy: str) -> None:
    if not os.path.exists(path):
        raise DataError(f"no file {path}; {remedy}")


def _field(row: Any, key: str, where: StrPath) -> Any:
    if not isinstance(row, Mapping) or key not in row:
        raise DataError(f"{os.fspath(where)} lacks {key!r}; it is not a file of VQA v2's format")
    return row[key]


def _listed(row: Any, key: str, where: StrPath) -> list[Any]:
    value = _field(row, key, where)
    if not isinstance(value, list):
        raise DataError(
            f"{os.fspath(where)}: {key!r} is {'null' if value is None else repr(value)[:40]}, but "
            "must be a list; give annotations with answers"
        )
    return value


def _key(row: Any, key: str, where: StrPath) -> int | str:
    value = _field(row, key, where)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataError(f"{os.fspath(where)}: {key!r} is {value!r}, but must be a number or a text")
    return value


def _image_number(row: Any, where: str) -> int:
    """The number of a COCO image, which may be written as a text."""
    value = _key(row, "image_id", where)
    if isinstance(value, str) and not value.isdecimal() or int(value) < 0:
        raise DataError(
            f"{where}: image_id {value!r} is not the number of a COCO image; only VQA on COCO "
            "images is read"
        )
    return int(value)


def _image_files(folder: StrPath) -> dict[str, str]:
    """Name → path of every image below a folder."""
    files = (path for path in walk(folder) if path.suffix.lower() in EXTENSIONS)
    found = {path.name: str(path) for path in files if not path.name.startswith(".")}
    if not found:
        raise DataError(f"no images below {folder}; give the folder that holds them")
    return found


def _coco_id(name: str) -> int | None:
    digits = os.path.splitext(name)[0].rpartition("_")[2]
    return int(digits) if digits.isdecimal() else None


def _find(key: Any, files: Mapping[Any, str], folder: StrPath, where: str) -> str:
    if key not in files:
        raise DataError(
            f"{where}: image {key} is not below {folder}; give the folder with the images of this "
            "split"
        )
    return files[key]


def _not_empty(records: list[Question], path: StrPath) -> tuple[Question, ...]:
    if not records:
        raise DataError(f"{path} holds no questions")
    return tuple(records)
