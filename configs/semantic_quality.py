"""The paper's Table 2 and Figure 6 on the quickstart's photos: how near 5 and 21 words are to their
photo.

python -m v2l_jax.main --config=configs/semantic_quality.py --workdir=runs/quickstart      (after the quickstart, on its words)

The quickstart's tower is ConSE, whose scores are called ConSE's; for CLIP's, name a CLIP in
config.tower and a fresh workdir.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("semantic_quality",)
    config.evaluate.semantic_quality = ConfigDict()
    config.evaluate.semantic_quality.tokens = (5, 21)  # words a photo
    config.evaluate.semantic_quality.controls = (
        "shuffled",
        "random",
    )  # another photo's words; any word, on average
    config.evaluate.semantic_quality.rings = 9  # photos drawn with their words around them
    config.evaluate.semantic_quality.ring_words = 21
    return config
