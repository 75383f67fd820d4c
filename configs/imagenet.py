"""The paper's tokenizer: ImageNet at 128 px, LLaMA-2's vocabulary, CLIP ViT-L/14, 100 epochs at a
global batch of 256 (8 images × 32 devices).

python -m v2l_jax.main --config=configs/imagenet.py --workdir=/data/v2l_imagenet

Needs TFDS imagenet2012 (tfds build imagenet2012 --file_format=array_record), and access to the two
models on the Hugging Face hub. The paper trained on 32 GPUs and reports FID 3.41, LPIPS 0.08, PSNR
23.56 with local tokens (Table 3). Not run by us at full length: a test takes a step of it on
synthetic data of the right shapes. Every option's default is this run's.
"""

from ml_collections import ConfigDict

from v2l_jax import experiment


def get_config() -> ConfigDict:
    return experiment.default()
