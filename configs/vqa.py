"""Visual question answering (Zhu et al. 2024, Fig. 5): SmolLM2 answers questions about COCO photos
and drawn shapes from their words.

python -m v2l_jax.main --config=configs/vqa.py --workdir=runs/quickstart
    (after the quickstart, on its words)

SmolLM2-135M through the default tower, open answers: COCO-QA sample 0.10 (95 % interval 0.03 to
0.30; 20 questions), without words 0.00, with another picture's words 0.05; easy-VQA 0.37 (0.32 to
0.43; 300 questions), 0.38, 0.36. Closed answers: 0.15, 0.15, 0.15; 0.37, 0.38, 0.36. Seven minutes
on 2 cores. No word helps there, since the tower cannot see drawn shapes; for COCO-QA 20 questions
are too few to tell.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("vqa",)
    config.representation.v2l_words.single_words = False
    return config
