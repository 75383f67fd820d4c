"""Masked image restoration (Figure 8 of the paper): LLaMA-2 with LoRA fills in 30 % of the local
words.

python -m v2l_jax.main --config=configs/v2l/restoration.py --workdir=/data/v2l_imagenet

In the workdir of configs/imagenet.py; fine-tunes adapters of rank 4 and alpha 32 on queries and
keys first. The paper shows examples, and neither numbers nor a schedule; this one is ours. Not run
by us at full length.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.jobs = ("codebook", "train", "tokenize", "finetune", "evaluate", "report")
    config.evaluate.tasks = ("restoration",)
    schedule = {"steps": 10_000, "batch_size": 64, "learning_rate": 2e-4, "warmup_steps": 200}
    config.finetune.update(schedule | {"eval_every": 500, "log_every": 50})
    config.evaluate.restoration.images = 1_000
    return config
