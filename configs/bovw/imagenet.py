"""Visual words at full size: DINOv2-L's features of ImageNet, 8,192 words, 64 an image, and
LLaMA-2-7B fine-tuned by LoRA to name the image.

python -m v2l_jax.main --config=configs/bovw/imagenet.py --workdir=/data/bovw_imagenet

Needs TFDS imagenet2012 (tfds build imagenet2012 --file_format=array_record), and access to the two
models on the Hugging Face hub. The features of 1.28 million images, averaged to 8 × 8, take 340 GB
of the workdir. Two passes over the images. Not run by us at full length: a test runs it on tiny
files of these formats.
"""

from ml_collections import ConfigDict

from v2l_jax import experiment


def get_config() -> ConfigDict:
    config = experiment.default()
    config.jobs = ("vocabulary", "finetune", "evaluate", "report")
    config.representation.kind = "visual_words"
    words = {"tower": "hf://facebook/dinov2-with-registers-large", "layer": -2, "pool": 8}
    config.representation.visual_words.update(words | {"words": 8192, "outliers": 4.0})
    lora = {"rank": 64, "alpha": 64, "learning_rate": 2e-4, "rows_learning_rate": 1e-3}
    lora |= {"targets": ("q_proj", "k_proj", "v_proj", "o_proj"), "warmup_steps": 600}
    sizes = {"batch_size": 128, "steps": 20_000, "eval_every": 1000, "checkpoint_every": 500}
    config.finetune.update({"task": "classification", **lora, **sizes, "eval_images": 2048})
    config.evaluate.tasks = ("classification",)
    config.evaluate.classification.controls = ("no_tokens",)
    return config
