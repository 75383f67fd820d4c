"""Captioning after ten examples, 21 words a picture (Zhu et al. 2024, Figure 5): CIDEr, BLEU-4,
ROUGE-L, with controls.

python -m v2l_jax.main --config=configs/captioning.py --workdir=runs/quickstart
    (after the quickstart, on its words)

Needs captioned pictures. COCO's go to data/coco (annotations/captions_val2017.json and val2017/).
Without COCO, Tux Paint's stamps, pictures with a short description beside each (Debian: apt install
tuxpaint-stamps-default), will do:

  --config.evaluate.captioning.source=stamps
  --config.evaluate.captioning.images=/usr/share/tuxpaint/stamps/animals
  --config.evaluate.captioning.name=tuxpaint-animals --config.evaluate.captioning.queries=60

60 stamps with their controls take about three minutes on 2 cores. Drawings want more words than the
photos' codebook has: --config.representation.v2l_words.vocabulary=candidates shows all n-grams of
the language model.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("captioning",)
    # The paper's words, of any length.
    config.representation.v2l_words.single_words = False
    return config
