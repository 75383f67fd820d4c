"""The configs at full size, each run on tiny files of the very formats: a random LLaMA with
SentencePiece, a random DINOv2, COCO's annotations, VQA v2's questions, a TFDS-prepared
imagenet2012.
"""

import json
import pathlib

import numpy as np
import pytest

from tests.jobs.test_paper_tables import _write_coco, _write_imagenet
from tests.tiny_models import sentencepiece, write_llm
from tests.tiny_vit import write_dinov2
from v2l_jax import experiment
from v2l_jax.jobs import runner
from v2l_jax.metrics.results import read_results

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "bovw"
SMALL = {
    "llm_options.dtype": "float32", "tower_options.dtype": "float32", "data.report": "()",
    "finetune.steps": "2", "finetune.batch_size": "8", "finetune.eval_images": "8",
    "finetune.rank": "2", "representation.visual_words.image_size": "16",
    "representation.visual_words.pool": "2", "representation.visual_words.words": "4",
    "representation.visual_words.layer": "-1", "evaluate.classification.models": "tuned,",
    "evaluate.classification.controls": "()", "evaluate.vqa.controls": "()",
}  # fmt: skip


def _instances(data, split, images):
    records = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 20, "width": 24} for i in images]
    content = {
        "images": records,
        "categories": [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 90 if i % 2 else 1, "bbox": [1, 2, 9, 9]}
            for i in images
        ],
    }
    (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def _questions(folder, split):
    """Eight questions about each of three images, in VQA v2's files."""
    asked = [
        {"question_id": i, "image_id": i % 3 + 1, "question": f"is it {i}?"} for i in range(24)
    ]
    answered = [
        {"question_id": i, "image_id": i % 3 + 1, "answer_type": "yes/no", "question_type": "is",
         "answers": [{"answer": "yes" if i % 2 else "no"}] * 10}
        for i in range(24)
    ]  # fmt: skip
    name = f"v2_OpenEnded_mscoco_{split}_questions.json"
    (folder / name).write_text(json.dumps({"data_subtype": split, "questions": asked}))
    name = f"v2_mscoco_{split}_annotations.json"
    (folder / name).write_text(json.dumps({"annotations": answered}))


@pytest.fixture(scope="module")
def files(asset, tmp_path_factory):
    """A folder with data/ as the official archives unpack, and the two models."""
    home, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    synsets = asset("imagenet-synsets").read_text().split()[:6]
    with pytest.MonkeyPatch.context() as monkeypatch:
        _write_imagenet(home / "tfds", synsets, rng, monkeypatch)
    _write_coco(home / "data", rng)
    for split in ("val2014", "train2014"):
        _questions(home / "data" / "vqa", split)
    coco = home / "data" / "coco"
    for i in range(1, 25):
        source = coco / "val2017" / f"{i % 6 + 1:012d}.jpg"
        target = coco / "train2017" / f"{i:012d}.jpg"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes() + bytes(i))
    _instances(coco, "train2017", range(1, 25))
    _instances(coco, "val2017", range(1, 7))
    (home / "dinov2").mkdir()
    write_llm(home / "llama", "llama", sentencepiece(360), context=4096)
    write_dinov2(home / "dinov2", patch=4)
    return home


@pytest.mark.parametrize("name", ["imagenet", "vqa_v2", "coco_detection"])
def test_configs_at_full_size_run_on_tiny_files(files, tmp_path, monkeypatch, name):
    here = {
        "llm": str(files / "llama"),
        "representation.visual_words.tower": str(files / "dinov2"),
        "data.tfds_dir": str(files / "tfds"),
    }
    if name != "imagenet":  # whose page shows images that are no files
        here["jobs"] = "vocabulary,finetune,evaluate"
    if name == "coco_detection":
        small = {"bins": "10", "objects": "3", "controls": "()", "scores": "class,constant"}
        here |= {f"evaluate.detection.{key}": value for key, value in small.items()}
    monkeypatch.chdir(files)
    config = experiment.load(CONFIGS / f"{name}.py", [*(SMALL | here).items()])
    runner.run_jobs(config, tmp_path)
    rows = {row.metric: row for row in read_results(tmp_path / "results.json")}
    wanted = {"imagenet": "top1_accuracy", "vqa_v2": "vqa_accuracy", "coco_detection": "mAP"}[name]
    assert 0 <= rows[wanted].value <= 1
    assert rows[wanted].measured_on["adapters"].endswith("2 steps of 8, rate 0.0002, seed 0")
    counts = {"imagenet": 12, "vqa_v2": 24, "coco_detection": 6}
    assert rows[wanted].count == counts[name]
    if name == "coco_detection":
        written = json.loads((tmp_path / "evaluate/detection/tuned-none-class.json").read_text())
        assert len(written) == 6 * 3 and {r["category_id"] for r in written} <= {1, 90}


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_every_config_is_valid(name):
    experiment.check(experiment.load(CONFIGS / f"{name}.py"))
