"""Table 4 of the paper: five corruptions of 5,000 ImageNet validation images, restored by LLaMA-2.

python -m v2l_jax.main --config=configs/v2l/denoising.py --workdir=/data/v2l_imagenet

In the workdir of configs/imagenet.py. FID needs the Inception that configs/v2l/reconstruction.py
names. The paper reports for LLaMA-2 7B FID 13.13, 15.28, 10.09, 10.64, 10.53 and LPIPS 0.1219,
0.1442, 0.1033, 0.1064, 0.1058. Not run by us at full length.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.evaluate.tasks = ("denoising",)
    config.evaluate.denoising.inception = "data/pt_inception-2015-12-05-6726825d.pth"
    return config
