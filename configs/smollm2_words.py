"""SmolLM2-135M's words, the embedded tower and the embedded photos, for a machine with two cores.

The quickstart and the release v2l-mini start from this; by itself it trains from nothing, for too
short.
"""

from ml_collections import ConfigDict

from v2l_jax import experiment

_CATS_AND_DOGS = tuple(f"dogs-cats/{split}" for split in ("training", "testing", "train", "val"))


def get_config() -> ConfigDict:
    config = experiment.default()
    config.llm = "smollm2-135m-instruct"
    config.llm_options.update({"dtype": "auto", "token_budget": 4096})
    config.tower = "conse"
    conse = {"classifier": "efficientnet-lite2", "sentence_encoder": "minilm-l6-v2"}
    conse |= {"synsets": "imagenet-synsets", "lemmas": "imagenet-lemmas"}
    config.tower_options.update(conse | {"dtype": "auto", "batch_size": 32})
    food = ("pizza-steak-sushi/train", "pizza-steak-sushi/test")
    photos = {"kind": "folders", "name": "dogs-cats + pizza-steak-sushi", "held_out": 0.4}
    photos |= {"labelled": (*food, *_CATS_AND_DOGS), "crop_size": 0}
    config.data.update(photos | {"rename_classes": {"cats": "cat", "dogs": "dog"}})
    # Caps that keep the time: 16,384 subwords are expanded, 8,192 make up the local codebook.
    limits = {"word_initial": True, "expand_limit": 16_384, "local_limit": 8_192}
    config.codebook.update(
        limits | {"templates": ("{}",), "merge_spellings": True, "embed_batch_size": 512}
    )
    small = {
        "channels": 32,
        "channel_multipliers": (1, 1, 2, 4),
        "num_res_blocks": 1,
        "z_channels": 128,
    }
    config.model.update(small | {"attn_resolutions": (), "resolution": 128})
    config.model.update({"global_tokens": 5, "dtype": "float32"})  # 128 px to 16 × 16 local tokens
    train = {
        "steps": 40,
        "epochs": 0.0,
        "batch_size": 8,
        "base_batch_size": 8,
        "warmup_epochs": 0.0,
    }
    config.train.update(train | {"perceptual_images": 2, "loader_workers": 0})
    config.evaluate.batch_size = 32
    return config
