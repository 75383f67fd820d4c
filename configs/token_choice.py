"""Which words of a photo to show a language model: what merging, diversity, adaptive counts, order
and calibration add.

python -m v2l_jax.main --config=configs/token_choice.py --workdir=runs/quickstart      (after the quickstart, on its tokenizer)

23 minutes on 2 cores with other work beside. What came out is in README: calibration adds most,
then single tokens; diversity adds nothing.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("token_choice",)
    config.evaluate.token_choice = ConfigDict()
    config.evaluate.token_choice.ways = (2, 5)
    config.evaluate.token_choice.shots = 1
    config.evaluate.token_choice.episodes = (
        400  # on training photos, where the best is picked, and as many on held-out ones
    )
    config.evaluate.token_choice.tokens = 5
    config.evaluate.token_choice.mmr = (
        0.8,
        0.65,
    )  # λ of maximal marginal relevance; smaller is more diverse
    config.evaluate.token_choice.adaptive = (
        0.6,
        0.8,
    )  # words below this share of the first word's similarity are left out
    return config
