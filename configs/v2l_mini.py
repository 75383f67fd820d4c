"""The released tokenizer, v2l-mini: 128 px photos become 16 × 16 SmolLM2 words and come back.

python -m v2l_jax.main --config=configs/v2l_mini.py --workdir=runs/v2l_mini

Trained on every natural photo that the package registries were found to carry (992; about 360 MB of
packages, by pip, npm and apt-get), but for the 232 that the quickstart holds out: those, and
scikit-image's, are what it is measured on. Ends with runs/v2l_mini/release: the files and their
model card.
"""

from ml_collections import ConfigDict

from configs import smollm2_words


def get_config() -> ConfigDict:
    config = smollm2_words.get_config()
    config.jobs = ("codebook", "train", "release")
    config.data.name = "photos of the package registries"
    # Photos: the quickstart's, split as there; then all others, for training alone.
    config.data.unlabelled = ("natural-photos", "pictwo-photos", "plasma-photos", "mate-photos")
    config.data.short_side = 384  # about 0.6 GB in memory
    # The decoder learns first, the encoder then moves slowly, and the projector is fitted to it.
    train = {"steps": 2_200, "learning_rate": 8e-4, "warmup_steps": 100, "ema_decay": 0.995}
    train |= {"encoder_start": 200, "encoder_scale": 0.2}
    train |= {"projector_fit_every": 20, "projector_fit_until": 1_600}
    train |= {"crop_scale": (0.2, 1.0), "flip": True}
    config.train.update(train | {"log_every": 20, "eval_every": 275, "checkpoint_every": 50})
    config.release.name = "v2l-mini"
    config.evaluate.tasks = ()  # the release job measures what it writes
    return config
