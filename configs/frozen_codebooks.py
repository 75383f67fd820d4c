"""Which frozen codebook? C·W with C = random numbers, the language model's embeddings, the sentence
encoder's vectors, or k-means of image patches: one size, one network, one budget, three seeds.

python -m v2l_jax.main --config=configs/frozen_codebooks.py --workdir=runs/frozen_codebooks

Small pictures (32 px to 8 × 8 tokens) and few steps; a row set that is there is not trained again.
The report has the table (usage, perplexity, dead words, PSNR, with intervals over seeds) and the
curves. About 40 minutes on 2 cores; docs/RESULTS.md has the outcome.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.jobs = ("codebook", "sweep", "report")
    config.codebook.local_limit, config.codebook.expand_limit = 2_048, 2_048
    config.codebook.ngrams = 1
    config.model.kind = "vqgan_star"
    config.model.vqgan_star.projected = True
    config.model.update({"image_size": 32, "channel_multipliers": (1, 1, 2), "z_channels": 64})
    config.train.update({"start_from": "", "learning_rate": 1e-3, "warmup_steps": 10})
    config.train.update({"steps": 150, "batch_size": 8, "disc_start": 1_000, "perceptual": ""})
    config.train.update({"encoder_start": 0, "projector_fit_every": 0, "encoder_scale": 1.0})
    config.train.update({"log_every": 10, "eval_every": 50})
    config.sweep.title = "Which frozen codebook?"
    kinds = (
        ("sentence encoder", "tower"),
        ("language model", "llm"),
        ("random", "random"),
        ("image patches", "patches"),
    )
    variants = tuple((name, (("model.vqgan_star.vectors", kind),)) for name, kind in kinds)
    learned = (("model.kind", "vqgan"), ("model.vqgan.entries", 2_048))
    config.sweep.axes = (("codebook", (*variants, ("learned", learned))),)
    config.sweep.seeds = 3
    return config
