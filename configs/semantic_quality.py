"""The paper's Table 2 and Figure 6 on the quickstart's photos: how near 5 and 21 words are to their
photo.

python -m v2l_jax.main --config=configs/semantic_quality.py --workdir=runs/quickstart
    (after the quickstart, on its words)

The quickstart's tower is ConSE, whose scores are called ConSE's; for CLIP's, name a CLIP in
config.tower and a fresh workdir.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("semantic_quality",)
    return config
