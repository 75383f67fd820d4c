"""Visual question answering after five examples, 21 words an image (Figure 5 of the paper) on VQA
v2.

python -m v2l_jax.main --config=configs/v2l/vqa.py --workdir=/data/v2l_imagenet

In the workdir of configs/imagenet.py; --config.jobs=codebook,evaluate,report does without a trained
tokenizer. Needs VQA v2 as the official archives unpack, questions and annotations in data/vqa, and
COCO 2014's images in data/coco/train2014 and data/coco/val2014. The paper shows examples and no
numbers. Not run by us at full length.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.evaluate.tasks = ("vqa",)
    files = (
        "data/vqa/v2_OpenEnded_mscoco_{0}_questions.json",
        "data/vqa/v2_mscoco_{0}_annotations.json",
    )
    asked, shown = (
        tuple(path.format(split) for path in (*files, "data/coco/{0}"))
        for split in ("val2014", "train2014")
    )
    config.evaluate.vqa.update({"sets": ("vqa_v2",), "answering": ("open",), "questions": 5_000})
    config.evaluate.vqa.vqa_v2.update({"asked": asked, "shown": shown})
    return config
