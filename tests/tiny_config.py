"""The quickstart made so small that tests run it end to end: real weights, real photos, a tokenizer
of a few steps.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

QUICKSTART = pathlib.Path(__file__).parents[1] / "configs" / "quickstart.py"


def get_config() -> ConfigDict:
    config = runpy.run_path(str(QUICKSTART))["get_config"]()
    config.llm_options.dtype = "float32"
    config.tower_options.dtype = "float32"
    config.data.labelled = ("pizza-steak-sushi/test",)
    config.data.name = "pizza-steak-sushi"
    config.data.unlabelled = ()
    config.codebook.vocabulary_limit = 600
    config.codebook.expand_limit = 300
    config.codebook.local_limit = 500
    config.codebook.expand_batch_size = 300
    config.codebook.ngrams = 2
    config.model.image_size = 32
    config.model.channel_multipliers = (1, 2)
    config.model.z_channels = 32
    config.train.start_from = ""
    config.train.steps = 6
    config.train.batch_size = 8
    config.train.warmup_steps = 1
    config.train.disc_start = 3
    config.train.encoder_start = 2
    config.train.projector_fit_every = 2
    config.train.projector_fit_until = 220
    config.train.perceptual = ""
    config.train.log_every = 2
    config.train.eval_every = 4
    config.train.checkpoint_every = 2
    config.evaluate.few_shot.ways = (2,)
    config.evaluate.few_shot.shots = (1,)
    config.evaluate.few_shot.control_shots = (1,)
    config.evaluate.few_shot.episodes = 6
    return config
