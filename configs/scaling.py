"""How large a batch pays: steps of the local tokenizer to one held-out PSNR at batch 2 to 64, and
the critical batch size.

python -m v2l_jax.main --config=configs/scaling.py --workdir=runs/scaling                          (the quickstart's photos at 32 px)
python -m v2l_jax.main --config=configs/scaling.py:imagenet --workdir=/data/v2l_imagenet           (256 to 16,384)

The second is for one host of many chips; what does not fit at once goes in micro-batches
(--config.train.micro_batches), larger states over --config.mesh.fsdp. Not run by us at that size.
"""

from ml_collections import ConfigDict

from configs import imagenet, quickstart


def get_config(at: str = "quickstart") -> ConfigDict:
    config = (quickstart if at == "quickstart" else imagenet).get_config()
    config.jobs = ("codebook", "evaluate", "report")
    config.train.learning_rate_scaling = "sqrt"  # what suits Adam
    config.evaluate.tasks = ("scaling",)
    if at == "quickstart":
        config.codebook.local_limit, config.codebook.expand_limit = 2_048, 2_048
        config.model.image_size, config.model.channel_multipliers, config.model.z_channels = (
            32,
            (1, 2),
            64,
        )
        config.train.start_from, config.train.perceptual, config.train.learning_rate = "", "", 1e-3
        config.train.projector_fit_every, config.train.projector_fit_until = 20, 220
        config.evaluate.scaling.batch_sizes = (2, 4, 8, 16, 32, 64)
        config.evaluate.scaling.seeds = 1
        config.evaluate.scaling.target_psnr = 15.0
        config.evaluate.scaling.max_steps = 400
        config.evaluate.scaling.eval_every = 10
    else:
        config.train.warmup_steps, config.train.warmup_epochs = (
            2_000,
            0.0,
        )  # the same at each batch size
        config.evaluate.scaling.batch_sizes = (256, 512, 1024, 2048, 4096, 8192, 16_384)
        config.evaluate.scaling.seeds = 3
        config.evaluate.scaling.target_psnr = 20.0
        config.evaluate.scaling.max_steps = 60_000
        config.evaluate.scaling.eval_every = 250
    return config
