"""Questions about COCO's images: VQA v2, the language model fine-tuned on the questions of the
training images and asked about those of the validation images.

python -m v2l_jax.main --config=configs/bovw/vqa_v2.py --workdir=/data/bovw_vqa

Needs VQA v2 as the official archives unpack, questions and annotations in data/vqa, and COCO 2014's
images in data/coco/train2014 and data/coco/val2014; the two models are those of
configs/bovw/imagenet.py. --config.representation.kind=none in another workdir is the blind bound.
Not run by us at full length: a test runs it on tiny files of these formats.
"""

from ml_collections import ConfigDict

from configs.bovw import imagenet
from configs.v2l import vqa


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    photos = {"kind": "folders", "name": "COCO 2014", "labelled": ("data/coco",)}
    config.data.update(photos | {"held_out": 0.01})
    config.representation.visual_words.fit = "pad"
    steps = {"task": "vqa", "steps": 10_000, "warmup_steps": 300}
    config.finetune.update(steps)
    config.evaluate.tasks = ("vqa",)
    config.evaluate.vqa.update({"sets": ("vqa_v2",), "answering": ("open",), "questions": 0})
    config.evaluate.vqa.update({"tuned": True, "shots": 0, "shown_questions": 0, "tokens": 64})
    config.evaluate.vqa.vqa_v2.update(vqa.get_config().evaluate.vqa.vqa_v2)
    return config
