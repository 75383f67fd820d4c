"""Detection as text on drawn objects: Tux Paint's stamps of ten classes, pasted on photos.

python -m v2l_jax.data.cut_outs runs/stamps
python -m v2l_jax.main --config=configs/bovw/stamps.py --workdir=runs/bovw-stamps

The first line writes 1,000 images to learn from and 200 to ask about, which share neither a stamp
nor a photo (161 MB once).
"""

from ml_collections import ConfigDict

from configs.bovw import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    images = {"name": "stamps", "labelled": ("runs/stamps/train",), "held_out": 0.01}
    config.data.update(images)
    config.data.rename_classes = {}
    shape = {"fit": "stretch", "pool": 8, "words": 1024, "most_points": 64}
    shape |= {"rows_start": "projected", "components": 0, "whiten": False, "spherical": False}
    config.representation.visual_words.update(shape)
    steps = {"task": "detection", "steps": 300, "batch_size": 8, "warmup_steps": 10}
    steps |= {"learning_rate": 1e-3, "rows_learning_rate": 2e-3}
    config.finetune.update(steps)
    config.evaluate.tasks = ("detection",)
    sets = {
        which: (f"runs/stamps/{split}/instances.json", f"runs/stamps/{split}/images")
        for which, split in (("shown", "train"), ("asked", "test"))
    }
    config.evaluate.detection.update(sets | {"name": "stamps", "bins": 100, "objects": 4})
    config.evaluate.detection.controls = ("shuffled",)
    return config
