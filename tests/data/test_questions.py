"""Readers of question sets: the published layouts, written small; and the two real sets that the
registry has.
"""

import collections
import json

import numpy as np
import pytest
from PIL import Image

from v2l_jax.data import questions
from v2l_jax.data.questions import Question, answers_by_image
from v2l_jax.errors import DataError


def _image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), 128, np.uint8)).save(path)
    return str(path)


@pytest.fixture
def vqa_v2(tmp_path):
    """Two questions of VQA v2's layout, annotations in another order; returns (questions,
    annotations, images, asked, annotated).
    """
    image = _image(tmp_path / "images" / "val2014" / "COCO_val2014_000000000042.jpg")
    asked = {"data_type": "mscoco", "data_subtype": "val2014", "questions": []}
    asked["questions"] += [{"image_id": 42, "question": "What color is it?", "question_id": 42000}]
    asked["questions"] += [{"image_id": 42, "question": "Is it big?", "question_id": 42001}]
    people = [
        {"answer": a, "answer_confidence": "yes", "answer_id": i}
        for i, a in enumerate(["no", "yes", "yes"])
    ]
    annotated = {"annotations": []}
    annotated["annotations"] += [
        dict(
            question_id=42001,
            image_id=42,
            question_type="is it",
            answer_type="yes/no",
            answers=people,
        )
    ]
    people = [{"answer": "red", "answer_confidence": "yes", "answer_id": 1}]
    annotated["annotations"] += [
        dict(
            question_id=42000,
            image_id=42,
            question_type="what color is the",
            answer_type="other",
            answers=people,
        )
    ]
    paths = tmp_path / "questions.json", tmp_path / "annotations.json"
    for path, content in zip(paths, (asked, annotated)):
        path.write_text(json.dumps(content, indent=1))
    return *paths, tmp_path / "images", asked, annotated, image


def test_vqa_v2_joins_questions_and_annotations(vqa_v2):
    *paths, _, _, image = vqa_v2
    assert questions.read_vqa_v2(*paths) == (
        Question(image, "What color is it?", ("red",), "other", "what color is the"),
        Question(image, "Is it big?", ("no", "yes", "yes"), "yes/no", "is it"),
    )
    assert [q.answer for q in questions.read_vqa_v2(*paths)] == ["red", "yes"]


@pytest.mark.parametrize(
    "which, key, value, message",
    [
        ("annotated", "answers", None, "annotations.json, question 42001: 'answers' is null"),
        ("annotated", "answers", "yes", "'answers' is 'yes', but must be a list"),
        ("annotated", "answers", [{"answer": None}], "'answer' is None"),
        ("annotated", "answers", [None], "lacks 'answer'"),
        ("annotated", "question_id", [1], r"'question_id' is \[1\]"),
        ("asked", "image_id", "abc.jpg", "image_id 'abc.jpg' is not the number"),
        ("asked", "image_id", None, "'image_id' is None"),
    ],
)
def test_vqa_v2_values_that_cannot_be_are_one_line(vqa_v2, which, key, value, message):
    asked_path, annotated_path, images, asked, annotated, _ = vqa_v2
    {"asked": asked["questions"], "annotated": annotated["annotations"]}[which][0][key] = value
    asked_path.write_text(json.dumps(asked))
    annotated_path.write_text(json.dumps(annotated))
    with pytest.raises(DataError, match=message) as caught:
        questions.read_vqa_v2(asked_path, annotated_path, images)
    assert "\n" not in str(caught.value)


def test_vqa_v2_reads_marks_and_numbers_written_as_text(vqa_v2):
    asked_path, annotated_path, images, asked, _, _ = vqa_v2
    plain = questions.read_vqa_v2(asked_path, annotated_path, images)
    asked["questions"][0]["image_id"] = "42"
    asked_path.write_text(json.dumps(asked), encoding="utf-8-sig")
    assert questions.read_vqa_v2(asked_path, annotated_path, images) == plain


@pytest.mark.parametrize("content", ["[]", "null", '{"questions": 3}', "[" * 100_000])
def test_what_is_no_question_file_is_one_line(vqa_v2, content):
    asked_path, annotated_path, images, *_ = vqa_v2
    asked_path.write_text(content)
    with pytest.raises(DataError, match="questions.json"):
        questions.read_vqa_v2(asked_path, annotated_path, images)


def test_vqa_v2_errors_name_file_and_question(vqa_v2):
    asked_path, annotated_path, images, asked, annotated, _ = vqa_v2
    read = lambda: questions.read_vqa_v2(asked_path, annotated_path, images)
    annotated_path.write_text(json.dumps({"annotations": annotated["annotations"][:1]}))
    with pytest.raises(
        DataError, match=r"questions.json, question 42000 has no annotation in .*annotations.json"
    ):
        read()
    del annotated["annotations"][1]["answer_type"]
    annotated_path.write_text(json.dumps(annotated))
    with pytest.raises(DataError, match=r"annotations.json, question 42000 lacks 'answer_type'"):
        read()
    asked["questions"][1]["image_id"] = 7
    asked_path.write_text(json.dumps({**asked, "questions": asked["questions"][1:]}))
    with pytest.raises(
        DataError,
        match=r"questions.json, question 42001: image COCO_val2014_000000000007.jpg is not below",
    ):
        read()
    asked_path.write_text('{"questions": [\n{"image_id": 42,,')
    with pytest.raises(DataError, match=r"questions.json, line 2 is not valid JSON"):
        read()
    asked_path.unlink()
    with pytest.raises(DataError, match="no file .*questions.json"):
        read()


@pytest.fixture
def coco_qa(tmp_path):
    """Two questions of COCO-QA's layout."""
    columns = {"questions": ["what is it", "how many dogs are there"], "answers": ["cat", "two"]}
    columns |= {"img_ids": ["42", "7"], "types": ["0", "1"]}
    for name, lines in columns.items():
        (tmp_path / f"{name}.txt").write_text("".join(line + "\n" for line in lines))
    for name in (
        "val2014/COCO_val2014_000000000042.jpg",
        "train2014/COCO_train2014_000000000007.jpg",
    ):
        _image(tmp_path / "images" / name)
    return tmp_path


def test_coco_qa_reads_a_line_a_question(coco_qa):
    first, second = questions.read_coco_qa(coco_qa, coco_qa / "images")
    assert first == Question(
        str(coco_qa / "images/val2014/COCO_val2014_000000000042.jpg"),
        "what is it",
        ("cat",),
        "object",
    )
    assert (second.answers, second.answer_type) == (("two",), "number")


@pytest.mark.parametrize(
    "file, text, message",
    [
        ("types.txt", "0\n12\n", r"types.txt, line 2: '12' is not a type from 0 to 3"),
        ("types.txt", "0\n5\n", r"types.txt, line 2: '5' is not a type from 0 to 3"),
        ("types.txt", "0\n", r"types.txt has 1 lines where questions.txt has 2"),
        ("img_ids.txt", "42\nx\n", r"img_ids.txt, line 2: 'x' is not the number of an image"),
        ("img_ids.txt", "42\n8\n", r"img_ids.txt, line 2: image 8 is not below .*images"),
        ("answers.txt", "cat\n\n", r"answers.txt, line 2 is empty"),
        ("answers.txt", None, r"no file .*answers.txt"),
    ],
)
def test_coco_qa_errors_name_file_and_line(coco_qa, file, text, message):
    (coco_qa / file).unlink()
    if text is not None:
        (coco_qa / file).write_text(text)
    with pytest.raises(DataError, match=message):
        questions.read_coco_qa(coco_qa, coco_qa / "images")


def test_easy_vqa_errors_name_the_entry(tmp_path):
    path = _image(tmp_path / "images" / "0.png")
    (tmp_path / "questions.json").write_text(
        '[["what is it?", "circle", 0], ["is it red?", "no", 0]]'
    )
    assert questions.read_easy_vqa(tmp_path)[0] == Question(
        path, "what is it?", ("circle",), "shape"
    )
    (tmp_path / "questions.json").write_text(
        '[["what is it?", "circle", 0], ["is it red?", "no", 1]]'
    )
    with pytest.raises(DataError, match=r"questions.json, entry 2: image 1.png is not below"):
        questions.read_easy_vqa(tmp_path)
    (tmp_path / "questions.json").write_text('[["what is it?", "circle"]]')
    with pytest.raises(DataError, match=r"entry 1 is not of the form"):
        questions.read_easy_vqa(tmp_path)


def test_a_sample_spreads_over_images():
    asked = [Question(f"{i // 4}.png", f"{i}?", ("yes",), "yes/no") for i in range(40)]
    drawn = questions.sample_questions(asked, 15, seed=0)
    images = collections.Counter(q.image for q in drawn)
    assert len(set(drawn)) == 15 and len(images) == 10 and max(images.values()) == 2
    assert questions.sample_questions(asked, 7, seed=0) == drawn[:7]
    assert questions.sample_questions(asked, 15, seed=1) != drawn
    assert (
        questions.sample_questions(asked, 0, seed=0)
        == questions.sample_questions(asked, 41, seed=0)
        == tuple(asked)
    )


def test_images_appear_once(tmp_path):
    paths = [_image(tmp_path / f"{i}.png") for i in range(2)]
    source = questions.QuestionImages([Question(paths[i], "?", ("a",), "other") for i in (1, 0, 1)])
    assert (
        source.paths == (paths[1], paths[0])
        and len(source) == 2
        and source.labels.tolist() == [-1, -1]
    )
    assert source[1]["image"].shape == (4, 6, 3) and source[1]["path"] == paths[0]


def test_real_sets(asset):
    """Counts and types as their publishers state them."""
    sample, shapes = asset("coco-qa-sample"), asset("easy-vqa")
    read = [
        questions.read_coco_qa(sample / "cocoqa-2015-05-17" / split, sample / "images")
        for split in ("train", "test")
    ]
    assert [len(part) for part in read] == [10, 10] and len(
        {q.image for part in read for q in part}
    ) == 20
    assert read[1][7].text == "the man carrying what runs into the ocean" and read[1][
        7
    ].answers == ("surfboard",)
    test = questions.read_easy_vqa(shapes / "test")
    assert len(test) == 9673 and len({q.image for q in test}) == 1000
    assert sum(q.answer_type == "yes/no" for q in test) == 7136
    assert {q.answer for q in test} == set((shapes / "answers.txt").read_text().split())


def test_answers_of_an_image_but_yes_and_no():
    rows = [("a", "yes"), ("a", "red"), ("b", "no"), ("a", "circle"), ("a", "red")]
    asked = [Question(image, "?", (answer,), "") for image, answer in rows]
    assert answers_by_image(asked) == {"a": ("red", "circle")}
