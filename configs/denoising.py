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
    config.evaluate.denoising = ConfigDict()
    config.evaluate.denoising.corruptions = (
        "inpainting",
        "outpainting",
        "deblurring",
        "rotation",
        "shift",
    )
    config.evaluate.denoising.controls = ("no_tokens", "shuffled")
    config.evaluate.denoising.images = (
        4  # held-out photos, drawn by the seed; 0 = all; the paper takes 5,000
    )
    config.evaluate.denoising.window = 2  # words predicted at once
    config.evaluate.denoising.context = (
        16  # words before the window that a prompt shows, filling a hole
    )
    config.evaluate.denoising.rates = (
        0.50,
        0.47,
        0.44,
        0.41,
        0.38,
        0.35,
        0.32,
        0.29,
        0.26,
        0.23,
    )  # replaced, an example each
    config.evaluate.denoising.counted_globals = (
        21  # global words that the rates count too, as published; 0 = local words alone
    )
    config.evaluate.denoising.inception = (
        ""  # weights of FID's Inception (such as "inception-v3-fid"); "" = no FID
    )
    config.evaluate.denoising.pictures = 4  # photos kept for the report
    return config
