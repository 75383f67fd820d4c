"""Table 2 and Figure 6 of the paper: CLIP score and CLIP-R of 5 and 21 words on ImageNet's
validation images.

python -m v2l_jax.main --config=configs/v2l/semantic_quality.py --workdir=/data/v2l_imagenet

In the workdir of configs/imagenet.py; --config.jobs=codebook,evaluate,report does without a trained
tokenizer. The paper reports 0.2576 and 0.9165 for 5 words, 0.2427 and 0.8520 for 21. Not run by us
at full length.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.evaluate.tasks = ("semantic_quality",)
    return config
