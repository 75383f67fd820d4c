"""Open-ended few-shot questions (Tsimpoukelli et al. 2021): images with sentences that name them by
made-up or real words, then an image with a question.

The published files are open_ended_mi_shots_{1,3,5}_ways_{2,5}_all_questions.json: a list of records
{"image_1", "caption_1", …, "question", "question_image", "answer"}; images are paths relative to
their folder.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from v2l_jax.errors import DataError
from v2l_jax.formats.text_files import read_json


@dataclasses.dataclass(frozen=True)
class OpenQuestion:
    """One question.

    Attributes:
      shown: (image, sentence) of each example, in order; an image is its place in `paths`.
      image: the image asked about.
      question: what is asked; may be empty.
      answer: the one answer that counts.
    """

    shown: tuple[tuple[int, str], ...]
    image: int
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class OpenQuestions:
    """A file of questions.

    Attributes:
      questions: in the order of the file.
      paths: the images, each once.
    """

    questions: tuple[OpenQuestion, ...]
    paths: tuple[str, ...]


def read_open_ended(
    path: str | os.PathLike, root: str | os.PathLike | None = None, shown: int | None = None
) -> OpenQuestions:
    """Reads a file of questions.

    Args:
      path: the JSON file.
      root: what image paths are relative to; the file's folder if not given.
      shown: how many examples each question has; None takes any number.

    Raises:
      DataError: the file is missing or no such list; a record lacks a field, names no image, or its
        images are not numbered from 1 on, are not as many as `shown`, or hold the one asked about.
    """
    path = pathlib.Path(path)
    records = read_json(path, DataError, list)
    if not records:
        raise DataError(f"{path} holds no questions")
    places: dict[str, int] = {}
    questions = [
        _parse(record, places, f"{path}, record {number}") for number, record in enumerate(records)
    ]
    for number, question in enumerate(questions):
        if shown is not None and len(question.shown) != shown:
            raise DataError(
                f"{path}, record {number} shows {len(question.shown)} images, but {shown} are "
                "asked for (ways times shots); give the file of that many"
            )
    folder = pathlib.Path(root) if root else path.parent
    return OpenQuestions(tuple(questions), tuple(str(folder / image) for image in places))


def _parse(record: Any, places: dict[str, int], where: str) -> OpenQuestion:
    if not isinstance(record, dict):
        raise DataError(f"{where} is no object with fields")

    def text(field: str) -> str:
        value = record.get(field)
        if not isinstance(value, str) or (not value.strip() and field != "question"):
            raise DataError(f"{where} has no text {field!r}")
        return value.strip()

    def image(field: str) -> int:
        return places.setdefault(text(field), len(places))

    numbers = _numbers(record)
    if numbers != list(range(1, len(numbers) + 1)):
        raise DataError(f"{where} has images {numbers}, which are not numbered from 1 on")
    shown = tuple((image(f"image_{n}"), text(f"caption_{n}")) for n in numbers)
    asked = OpenQuestion(shown, image("question_image"), text("question"), text("answer"))
    if asked.image in [i for i, _ in shown]:
        raise DataError(f"{where} asks about {text('question_image')!r}, which it shows")
    return asked


def _numbers(record: dict[str, Any]) -> Sequence[int]:
    found = (re.fullmatch(r"image_(\d+)", field) for field in record)
    return sorted(int(match[1]) for match in found if match)
