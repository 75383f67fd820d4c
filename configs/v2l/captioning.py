"""Captioning after ten examples, 21 words an image (Figure 5 of the paper) on COCO's validation
images.

python -m v2l_jax.main --config=configs/v2l/captioning.py --workdir=/data/v2l_imagenet

In the workdir of configs/imagenet.py; --config.jobs=codebook,evaluate,report does without a trained
tokenizer. Needs COCO 2017 as the official archives unpack: data/coco/annotations/
captions_val2017.json and data/coco/val2017/. The paper shows examples and no numbers. Not run by us
at full length.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.evaluate.tasks = ("captioning",)
    return config
