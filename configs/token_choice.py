"""Which words of a photo to show a language model: what merging, diversity, adaptive counts, order
and calibration add.

python -m v2l_jax.main --config=configs/token_choice.py --workdir=runs/quickstart
    (after the quickstart, on its tokenizer)

23 minutes on 2 cores with other work beside. What came out is in docs/RESULTS.md: calibration adds
most, then single tokens; diversity adds nothing.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("token_choice",)
    return config
