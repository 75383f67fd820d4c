"""Files of open-ended questions in the published format."""

import json

import pytest

from v2l_jax.data.open_ended import OpenQuestion, read_open_ended
from v2l_jax.errors import DataError

RECORD = {
    "question_id": 3,
    "image_2": "b/2.jpg",
    "caption_2": "This is a blicket.",
    "image_1": "a/1.jpg",
    "caption_1": "This is a dax.",
    "question": "This is a ",
    "question_image": "d/4.jpg",
    "answer": "dax",
}


def test_examples_in_order_and_each_image_once(tmp_path):
    path = tmp_path / "open_ended_mi_shots_1_ways_2_all_questions.json"
    path.write_text(json.dumps([RECORD, RECORD | {"question_image": "c.jpg", "question": ""}]))
    read = read_open_ended(path)
    shown = ((0, "This is a dax."), (1, "This is a blicket."))
    first, second = read.questions
    assert first == OpenQuestion(shown, 2, "This is a", "dax")
    assert second.image == 3 and second.question == ""
    paths = ("a/1.jpg", "b/2.jpg", "d/4.jpg", "c.jpg")
    assert read.paths == tuple(str(tmp_path / p) for p in paths)
    assert len(read_open_ended(path, shown=2).questions) == 2
    with pytest.raises(DataError, match="record 0 shows 2 images, but 10 are asked for"):
        read_open_ended(path, shown=10)
    assert read_open_ended(path, "/images").paths[0] == "/images/a/1.jpg"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 5000, "not valid JSON"),
        ("{}", "must hold a list"),
        ("[]", "holds no questions"),
        (json.dumps([RECORD | {"question_image": "b/2.jpg"}]), "asks about 'b/2.jpg', which it sh"),
        ("[3]", "record 0 is no object"),
        (json.dumps([RECORD | {"answer": ""}]), "record 0 has no text 'answer'"),
        (json.dumps([RECORD | {"caption_2": 4}]), "record 0 has no text 'caption_2'"),
        (json.dumps([RECORD | {"image_4": "x"}]), r"record 0 has images \[1, 2, 4\]"),
    ],
)
def test_what_is_wrong_is_said_where(tmp_path, content, message):
    path = tmp_path / "questions.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_open_ended(path)
