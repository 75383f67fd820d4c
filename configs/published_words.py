"""The published code to the letter on the quickstart's photos: its words, prompts and mask, with
SmolLM2-135M and the embedded tower.

python -m v2l_jax.main --config=configs/published_words.py --workdir=runs/published_words

Every subword with its bigram and trigram, each in CLIP's 80 sentences: 11.8 million sentences,
about four hours on 2 cores at the quickstart's rate. --config.codebook.vocabulary_limit=8192 takes
a sixth. Not measured yet.
"""

from ml_collections import ConfigDict

from configs import smollm2_words


def get_config() -> ConfigDict:
    config = smollm2_words.get_config()
    config.published = True
    config.jobs = ("codebook", "evaluate", "report")
    words = {"word_initial": False, "merge_spellings": False, "templates": "imagenet"}
    config.codebook.update(words | {"expand_limit": 0, "local_limit": 0})
    config.evaluate.tasks = ("few_shot",)
    config.evaluate.few_shot.update({"episodes": 200, "control_shots": (1, 3)})
    return config
