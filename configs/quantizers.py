"""The quantizers of today between one encoder and one decoder, at equal tokens, steps and losses,
three seeds each; and the bound, no quantizer at all.

python -m v2l_jax.main --config=configs/quantizers.py --workdir=runs/quantizers

Small pictures (32 px to 8 × 8 tokens), codebooks of 2,048 entries or as near as a quantizer comes,
few steps; a row set that is there is not trained again. The report has the table (usage,
perplexity, dead entries, PSNR, with intervals over seeds) and the curves. About 30 minutes on 2
cores.
"""

from ml_collections import ConfigDict

from configs import frozen_codebooks


def get_config() -> ConfigDict:
    config = frozen_codebooks.get_config()
    config.jobs = ("sweep", "report")
    config.model.kind = "vqgan"
    config.model.vqgan.entries = 2_048
    q = config.model.quantizers
    q.vq_l2.rows, q.ibq.rows, q.sim_vq.rows, q.multi_codebook.rows = 2_048, 2_048, 2_048, 512
    q.ibq.width, q.multi_codebook.parts = 64, 4
    q.fsq.levels = (8, 8, 6, 5)  # 1,920
    q.lfq.bits, q.lfq.group, q.bsq.bits, q.bsq.group = 11, 11, 11, 11
    names = ("codebook", "vq_l2", "ibq", "fsq", "lfq", "bsq", "sim_vq", "multi_codebook")
    config.sweep.title = "Quantizers at equal tokens"
    variants = ((name, (("model.vqgan.quantizer", name),)) for name in (*names, "continuous"))
    config.sweep.axes = (("quantizer", tuple(variants)),)
    return config
