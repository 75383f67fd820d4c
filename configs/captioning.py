"""Captioning after ten examples, 21 words a picture (Zhu et al. 2024, Figure 5): CIDEr, BLEU-4,
ROUGE-L, with controls.

python -m v2l_jax.main --config=configs/captioning.py --workdir=runs/quickstart      (after the quickstart, on its words)

Needs captioned pictures. COCO's go to data/coco (annotations/captions_val2017.json and val2017/).
Without COCO, Tux Paint's stamps, pictures with a short description beside each (Debian: apt install
tuxpaint-stamps-default), will do:

  --config.evaluate.captioning.source=stamps --config.evaluate.captioning.images=/usr/share/tuxpaint/stamps/animals
  --config.evaluate.captioning.name=tuxpaint-animals --config.evaluate.captioning.queries=60

60 stamps with their controls take about three minutes on 2 cores.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("captioning",)
    config.evaluate.captioning = ConfigDict()
    config.evaluate.captioning.source = (
        "coco"  # or "stamps", pictures with a .txt beside each; then `annotations` is not read
    )
    config.evaluate.captioning.annotations = "data/coco/annotations/captions_val2017.json"
    config.evaluate.captioning.images = "data/coco/val2017"  # the folder of the pictures
    config.evaluate.captioning.name = "coco-captions-val2017"
    config.evaluate.captioning.queries = 500  # pictures to caption, drawn by the seed
    config.evaluate.captioning.examples = 200  # other pictures, which the shots are drawn from
    config.evaluate.captioning.shots = 10  # examples a prompt
    config.evaluate.captioning.tokens = 21  # words a picture
    # "candidates": all the language model's n-grams, since the quickstart's photos chose words for
    # dogs, cats and food; "global",
    # the words that the run's photos chose, is the paper's way.
    config.evaluate.captioning.vocabulary = "candidates"
    config.evaluate.captioning.max_new_tokens = 24  # the longest caption, in tokens
    config.evaluate.captioning.controls = ("no_tokens", "shuffled")
    config.evaluate.captioning.pictures = 12  # kept for the report
    return config
