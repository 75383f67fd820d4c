"""What keeps the codebook in use, and what the GAN's start does to it: remedies × two starts ×
three seeds on the quickstart's photos.

python -m v2l_jax.main --config=configs/codebook_health.py --workdir=runs/codebook_health

Small pictures and few steps, the GAN starting half-way; a row set that is there is not trained
again. The report has the table (usage, perplexity, dead words, PSNR, LPIPS, with intervals over
seeds) and the curves; sweep/curves.png is the same figure. About 75 minutes on 2
cores (AVX2); docs/RESULTS.md has the outcome.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.jobs = ("codebook", "sweep", "report")
    config.codebook.local_limit, config.codebook.expand_limit = 2_048, 2_048
    config.model.image_size, config.model.channel_multipliers, config.model.z_channels = (
        32,
        (1, 2),
        64,
    )
    config.train.start_from, config.train.learning_rate = "", 1e-3
    config.train.steps, config.train.batch_size = 100, 4
    config.train.disc_start = 50
    config.train.encoder_start = 0
    config.train.projector_fit_every = 0
    config.train.log_every = 5
    config.train.eval_every = 25
    config.sweep.title = "What keeps the codebook in use"
    # Each start with each remedy; others are compared with the first remedy.
    starts = (
        ("published start", (("train.encoder_scale", 1.0),)),
        # The quickstart's way until the GAN starts, so that there is a codebook in use to lose.
        (
            "fitted start",
            (
                ("train.encoder_start", 20),
                ("train.projector_fit_every", 10),
                ("train.projector_fit_until", 50),
            ),
        ),
    )
    remedies = (
        ("none", ()),
        ("re-centring", (("train.projector_recenter_every", 10),)),
        ("revival", (("train.projector_revive_every", 20),)),
        ("entropy", (("train.weight_entropy", 0.1),)),
        ("discriminator warm-up", (("train.disc_warmup", 25),)),
        (
            "all four",
            (
                ("train.projector_recenter_every", 10),
                ("train.projector_revive_every", 20),
                ("train.weight_entropy", 0.1),
                ("train.disc_warmup", 25),
            ),
        ),
    )
    config.sweep.axes = (("start", starts), ("remedy", remedies))
    config.sweep.seeds = 3
    return config
