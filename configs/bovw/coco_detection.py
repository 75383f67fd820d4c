"""Detection as text on COCO 2017, after Pix2Seq: objects are written as class and box in 1,000
bins, 100 of each image, made-up ones among them.

python -m v2l_jax.main --config=configs/bovw/coco_detection.py --workdir=/data/bovw_coco

Needs COCO 2017 as the official archives unpack: data/coco/annotations/instances_train2017.json and
instances_val2017.json, data/coco/train2017/ and data/coco/val2017/; the two models are those of
configs/bovw/imagenet.py. Images are stretched to a square of 448 pixels and written as 32 × 32
words. Not run by us at full length: a test runs it on tiny files of these formats.
"""

from ml_collections import ConfigDict

from configs.bovw import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    photos = {"kind": "folders", "name": "COCO 2017", "labelled": ("data/coco",)}
    config.data.update(photos | {"held_out": 0.01})
    shape = {"image_size": 448, "fit": "stretch", "pool": 32}
    config.representation.visual_words.update(shape)
    config.finetune.update({"task": "detection", "steps": 40_000, "batch_size": 32})
    config.evaluate.tasks = ("detection",)
    sets = {
        which: (f"data/coco/annotations/instances_{split}.json", f"data/coco/{split}")
        for which, split in (("shown", "train2017"), ("asked", "val2017"))
    }
    config.evaluate.detection.update(sets | {"name": "COCO val2017", "tokens": 1024})
    return config
