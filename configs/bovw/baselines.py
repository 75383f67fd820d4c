"""The quickstart's photos written in other ways: the same language model, images, steps and rates.

python -m v2l_jax.main --config=configs/bovw/baselines.py:mlp --workdir=runs/bovw-mlp
    (a workdir for each name of BASELINES)

The features of the photos are the same for all but "mlp64", "perceiver" and "qformer", so copy
patches/ from one workdir to the next. Not measured yet.
"""

from ml_collections import ConfigDict

from configs.bovw import quickstart

_WORDS = ("words", "most_points", "components", "whiten", "spherical", "rows_start")
_PATCHES = ("tower", "layer", "pool")
BASELINES = {
    "words": ("visual_words", {}),
    "none": ("none", {}),
    "blind": ("blind_prefix", {"vectors": 18}),
    "linear": ("patch_adapter", {"layers": 1}),
    "mlp": ("patch_adapter", {"layers": 2}),
    "mlp64": ("patch_adapter", {"layers": 2, "pool": 8}),
    "perceiver": ("resampler", {"form": "perceiver", "queries": 16, "layers": 1, "pool": 8}),
    "qformer": ("resampler", {"form": "qformer", "queries": 16, "layers": 1, "pool": 8}),
    "residual": ("mixed_words", {"form": "residual"}),
    "prefix": ("mixed_words", {"form": "prefix"}),
    "probabilistic": ("mixed_words", {"form": "probabilistic"}),
    "product": ("mixed_words", {"form": "product", "chunks": 2}),
}
"""By name, a representation and what it differs in."""


def get_config(name: str = "mlp") -> ConfigDict:
    config = quickstart.get_config()
    kind, own = BASELINES[name]
    config.representation.kind = kind
    options, known = config.representation.get(kind, ConfigDict()), config.representation
    for key in (*_PATCHES, *_WORDS):
        if key in options:
            options[key] = known.visual_words[key]
    options.update(own)
    if "words" not in options:
        config.jobs = ("finetune", "evaluate", "report")
    config.evaluate.classification.update({"models": ("tuned",), "controls": ()})
    return config
