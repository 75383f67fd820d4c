"""Readers of images and data sets: sound files to damage, and how one is read to the end."""

import io
import json
import pathlib

import numpy as np
from PIL import Image

from tests.fuzz.harness import Reader, allow_errors, as_json, discard, of_file, of_folder


def images() -> Reader:
    """Pictures of every kind that Pillow writes."""
    from v2l_jax.data.images import decode_image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    kinds = "PNG JPEG GIF BMP TIFF WEBP AVIF JPEG2000 TGA PPM ICO PCX SGI DDS ICNS QOI".split()
    seeds = []
    for kind in kinds:
        for image in (picture, picture.convert("L"), picture.convert("P"), picture.convert("I;16")):
            buffer = io.BytesIO()
            try:
                image.save(buffer, kind)
            except (OSError, ValueError, KeyError):
                continue
            seeds.append(buffer.getvalue())
    return Reader(seeds, lambda content, folder: discard(decode_image(content)))


def csv() -> Reader:
    """Episode files."""
    from v2l_jax.data.episodes import read_class_names, read_episode_csv

    text = "warm/0.png,cold/1.png,cold/13.png\nwarm/2.png,cold/3.png,warm/14.png\n"

    def read(path: pathlib.Path) -> None:
        read_class_names(path)
        read_episode_csv(path, "photos")

    return Reader([text.encode(), text.encode("utf-16"), b"a\tb\n"], of_file("a.csv", read))


def captions() -> Reader:
    """COCO captions."""
    from v2l_jax.data.captions import read_coco_captions

    coco = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "annotations": [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "."}],
    }
    return Reader(as_json(coco), of_file("a.json", lambda path: read_coco_captions(path, "photos")))


def questions() -> Reader:
    """VQA v2, questions and annotations alike."""
    from v2l_jax.data.questions import read_vqa_v2

    asked = {
        "data_subtype": "val2014",
        "questions": [{"question_id": 1, "image_id": 42, "question": "what?"}],
    }
    answered = {
        "annotations": [
            {"question_id": 1, "answer_type": "other", "question_type": "what"}
            | {"answers": [{"answer": "red"}]}
        ]
    }

    def read(content: bytes, folder: pathlib.Path) -> None:
        image = folder / "COCO_val2014_000000000042.jpg"
        if not image.exists():
            Image.new("RGB", (2, 2)).save(image)
        damaged = folder / "damaged.json"
        damaged.write_bytes(content)
        sound = {"asked": asked, "answered": answered}
        for name, value in sound.items():
            if not (folder / name).exists():
                (folder / name).write_text(json.dumps(value))
        if b"questions" in content:
            read_vqa_v2(damaged, folder / "answered", folder)
        read_vqa_v2(folder / "asked", damaged, folder)

    return Reader(as_json(asked, answered), read)


def boxes() -> Reader:
    """COCO instances."""
    from v2l_jax.data.boxes import read_coco_boxes

    instances = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 4}],
        "annotations": [
            {"image_id": 1, "category_id": 3, "bbox": [0, 1, 2.5, 2], "iscrowd": 0, "area": 5.0}
        ],
        "categories": [{"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}],
    }

    def read(path: pathlib.Path) -> None:
        if not path.with_name("a.png").exists():
            Image.new("RGB", (4, 4)).save(path.with_name("a.png"))
        read_coco_boxes(path, path.parent)

    return Reader(as_json(instances), of_file("instances.json", read))


def caption_texts() -> Reader:
    """Captions of the representation `caption` (a JSON object, or two columns), and stamps'."""
    from v2l_jax.data.captions import read_stamps
    from v2l_jax.representations import caption

    def read(content: bytes, folder: pathlib.Path) -> None:
        if not (folder / "a.png").exists():
            Image.new("RGB", (2, 2)).save(folder / "a.png")
        (folder / "a.txt").write_bytes(content)
        allow_errors(lambda: read_stamps(folder))
        allow_errors(lambda: caption.Options().caption_of(str(folder / "a.png")))
        caption._read.__wrapped__(folder / "a.txt")

    stamp = "A cat.\nde.utf8=Eine Katze.\n"
    columns = "a.png\ta cat\nb.png\ta dog\n"
    texts = [columns.encode(), columns.encode("utf-16"), columns.replace("cat", stamp).encode()]
    return Reader([*as_json({"a.png": "a cat", "b.png": ["a dog", "it"]}), *texts[:2]], read)


def question_files() -> Reader:
    """COCO-QA's four text files, and easy-VQA's JSON."""
    from v2l_jax.data.questions import read_coco_qa, read_easy_vqa

    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    files = {
        "questions.txt": b"what is it\nhow many\n", "answers.txt": b"cat\ntwo\n",
        "img_ids.txt": b"42\n7\n", "types.txt": b"0\n1\n",
        "questions.json": json.dumps([["is it red?", "yes", 0], ["what?", "circle", 1]]).encode(),
    }  # fmt: skip
    names = ("COCO_000000000042.png", "COCO_000000000007.png", "0.png", "1.png")
    sound = {f"images/{name}": picture.getvalue() for name in names}

    coco = {name: lambda folder: read_coco_qa(folder, folder / "images") for name in files}
    return of_folder(files, coco | {"questions.json": read_easy_vqa}, sound)


def open_ended() -> Reader:
    """Questions of Open-Ended Mini-ImageNet."""
    from v2l_jax.data.open_ended import read_open_ended

    record = {
        "image_1": "a.jpg", "caption_1": "This is a dax.", "image_2": "b.jpg",
        "caption_2": "This is a blicket.", "question": "This is a", "question_image": "c.jpg",
        "answer": "dax",
    }  # fmt: skip
    return Reader(
        as_json([record], [record, record | {"question": ""}]),
        of_file("a.json", lambda path: read_open_ended(path, shown=2)),
    )


def name_lists() -> Reader:
    """Names of classes for ConSE, and lists of words as text and as numpy's file."""
    from v2l_jax.run.released_words import read_word_list
    from v2l_jax.towers.conse import read_class_lemmas

    words = io.BytesIO()
    np.save(words, np.array(["cat", "dog", "naïve"]))
    files = {
        "synsets.txt": b"n01\nn02\n", "lemmas.txt": b"n02\tdog, hound\nn01\tcat\n",
        "words.npy": words.getvalue(), "words.txt": b"cat\ndog\n",
    }  # fmt: skip

    lemmas = lambda folder: read_class_lemmas(folder / "synsets.txt", folder / "lemmas.txt")
    read = {name: lambda folder, name=name: read_word_list(folder / name) for name in files}
    return of_folder(files, read | {"synsets.txt": lemmas, "lemmas.txt": lemmas}, {})
