"""The paper's Table 1 on the quickstart's photos: 2- and 5-way, by shots, repetitions and induction, with 5 and 21 words.

python -m v2l_jax.main --config=configs/few_shot.py --workdir=runs/quickstart      (after the quickstart, on its tokenizer)

For the paper's own episodes, name their files and photos in episode_file and episode_photos.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("few_shot",)
    options = config.evaluate.few_shot.to_dict() | {
        "repetitions": (0, 1, 3, 5),
        "induction": (True, False),
        "table_1": True,
        "tokens": (5, 21),
        "rule": ("greedy", "likelihood"),
        "controls": ("no_tokens", "shuffled"),
        "control_shots": (1,),
        "single_words": False,  # the paper's codebook has bigrams and trigrams
        "episodes": 100,  # of each of 72 rows
    }
    config.evaluate.few_shot = ConfigDict(options)
    return config
