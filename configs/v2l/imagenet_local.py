"""The paper's row of 256 tokens (Zhu et al. 2024, Table 3): a decoder that sees the local words
alone.

python -m v2l_jax.main --config=configs/v2l/imagenet_local.py --workdir=/data/v2l_imagenet_local

As configs/imagenet.py, whose row is the hybrid one of 277 tokens; the codebook/ and features/ of
that run's workdir can be copied into this one's. The paper reports FID 3.41, LPIPS 0.08, PSNR
23.56. Not run by us at full length.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.model.cross_attention_heads = 0
    config.evaluate.tasks = ("reconstruction",)
    return config
