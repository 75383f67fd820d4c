"""Table 3 of the paper: FID, IS, LPIPS, PSNR and SSIM of ImageNet's validation images at 128 px.

python -m v2l_jax.main --config=configs/v2l/reconstruction.py --workdir=/data/v2l_imagenet

In the workdir of configs/imagenet.py (277 tokens) or configs/v2l/imagenet_local.py (256; add
--config.model.cross_attention_heads=0). A tokenizer of the published code takes the place of
training: --config.model.released=v2l.pth, in a fresh workdir. FID and IS need the Inception that
FID is measured with, pytorch-fid's pt_inception-2015-12-05-6726825d.pth, in data/;
--config.evaluate.reconstruction.inception=inception-v3-fid is the registered one, without IS. The
paper reports FID 2.88, LPIPS 0.08, PSNR 23.25. Not run by us at full length.
"""

from ml_collections import ConfigDict

from configs import imagenet


def get_config() -> ConfigDict:
    config = imagenet.get_config()
    config.evaluate.tasks = ("reconstruction",)
    config.evaluate.reconstruction.inception = "data/pt_inception-2015-12-05-6726825d.pth"
    return config
