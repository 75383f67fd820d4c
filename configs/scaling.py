"""How large a batch pays: steps of the local tokenizer to one held-out PSNR at batch 2 to 64, and
the critical batch size.

python -m v2l_jax.main --config=configs/scaling.py --workdir=runs/scaling
    (the quickstart's photos at 32 px)
python -m v2l_jax.main --config=configs/scaling.py:imagenet --workdir=/data/v2l_imagenet
    (256 to 16,384)

The second is for one host of many chips; what does not fit at once goes in micro-batches
(--config.train.micro_batches), larger states over --config.mesh.fsdp. Not run by us at that size.
"""

from ml_collections import ConfigDict

from configs import imagenet, quickstart


def get_config(at: str = "quickstart") -> ConfigDict:
    config = (quickstart if at == "quickstart" else imagenet).get_config()
    config.jobs = ("codebook", "sweep", "report")
    config.train.learning_rate_scaling = "sqrt"  # what suits Adam
    config.train.epochs = 0.0
    config.sweep.title = "How large a batch pays"
    if at == "quickstart":
        config.codebook.local_limit = config.codebook.expand_limit = 2_048
        config.model.image_size, config.model.channel_multipliers = 32, (1, 2)
        config.model.z_channels = 64
        config.train.start_from, config.train.perceptual, config.train.learning_rate = "", "", 1e-3
        config.train.projector_fit_every, config.train.projector_fit_until = 20, 220
        config.train.steps, config.train.eval_every = 400, 10
        sizes, config.sweep.target = (2, 4, 8, 16, 32, 64), ("psnr", 15.0)
    else:
        config.train.warmup_steps, config.train.warmup_epochs = 2_000, 0.0  # at each batch size
        config.train.steps, config.train.eval_every = 60_000, 250
        config.sweep.seeds = 3
        sizes = (256, 512, 1024, 2048, 4096, 8192, 16_384)
        config.sweep.target = ("psnr", 20.0)
    config.sweep.axes = (
        ("batch_size", tuple((size, (("train.batch_size", size),)) for size in sizes)),
    )
    return config
