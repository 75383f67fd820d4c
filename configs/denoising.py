"""Five denoising tasks (Zhu et al. 2024, Table 4): SmolLM2 fills holes, sharpens, turns and shifts
pictures of the quickstart's tokenizer.

python -m v2l_jax.main --config=configs/denoising.py --workdir=runs/quickstart

On 2 cores about 3 minutes a photo, with controls. Missing words restored, 2 photos: inpainting
0.67, outpainting 0.69, deblurring 0.93, rotation 0.78, shift 0.80; with another photo's examples
0.01, 0.00, 0.66, 0.01, 0.02. A vote over the examples, which hold the answer as published, gets
1.00.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("denoising",)
    config.evaluate.denoising.images = 4
    return config
