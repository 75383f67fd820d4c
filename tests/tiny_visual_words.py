"""A run over drawn images that a tiny ViT turns into visual words for a tiny language model."""

import pathlib

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from tests import tiny_restoration
from tests.tiny_vit import write_dinov2

COLOURS = {"red": (220, 20, 30), "green": (20, 200, 60), "blue": (30, 40, 220)}
PER_CLASS = 10


def get_config(asset, folder: pathlib.Path) -> ConfigDict:
    """Images of one colour each, named by it; language model and ViT are written to `folder`."""
    for name in ("llm", "vit", "images"):
        (folder / name).mkdir()
    config = tiny_restoration.get_config(asset, folder / "llm")
    write_dinov2(folder / "vit", patch=4)
    rng = np.random.default_rng(0)
    for colour, value in COLOURS.items():
        (folder / "images" / colour).mkdir()
        for i in range(PER_CLASS):
            pixels = np.clip(rng.normal(value, 25, (20, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / colour / f"{i}.png")
    config.data.update({"kind": "folders", "name": "colours", "held_out": 0.4})
    config.data.labelled = (str(folder / "images"),)
    config.data.rename_classes = {}
    config.tower = "conse"
    config.representation.kind = "visual_words"
    config.representation.visual_words.update(
        {"tower": str(folder / "vit"), "layer": -1, "image_size": 16, "pool": 2, "words": 6}
    )
    config.finetune.update(
        {"task": "classification", "steps": 30, "rows_learning_rate": 0.2, "checkpoint_every": 30}
    )
    config.finetune.update({"learning_rate": 0.02, "eval_every": 30})
    config.evaluate.tasks = ("classification",)
    config.jobs = ("vocabulary", "finetune", "evaluate", "report")
    return config
