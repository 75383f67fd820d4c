"""Questions about drawn shapes: the pictures of easy-VQA become visual words, and SmolLM2 learns to
answer from them.

python -m v2l_jax.main --config=configs/bovw/easy_vqa.py --workdir=runs/bovw-easy-vqa

Its own split: 4,000 pictures to learn from, 1,000 to ask about. `--config.representation.kind=none`
in another workdir is the blind bound. 300 of the test questions after 75 steps (about 2,400
questions): 0.81 (0.76 to 0.85), shape 0.97, colour 0.79, yes/no 0.79, which is the blind bound. A
step takes about 5 s of CPU on two cores with bfloat16; the 300 were not run to their end.
"""

from ml_collections import ConfigDict

from configs.bovw import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.data.update({"name": "easy-VQA", "labelled": ("easy-vqa/train",), "held_out": 0.75})
    config.data.rename_classes = {}
    config.llm_options.dtype = "bfloat16"
    words = {"image_size": 112, "most_points": 128, "said": "easy-vqa/train"}
    config.representation.visual_words.update(words)
    config.finetune.update({"task": "vqa", "steps": 300, "batch_size": 4, "together": 8})
    config.finetune.update({"learning_rate": 1e-3, "rows_learning_rate": 2e-3, "warmup_steps": 20})
    config.finetune.update({"eval_images": 24})
    config.evaluate.tasks = ("vqa",)
    config.evaluate.vqa.sets = ("easy_vqa",)
    config.evaluate.vqa.update({"tuned": True, "shots": 0, "shown_questions": 0, "tokens": 16})
    config.evaluate.vqa.update({"questions": 500, "answering": ("closed",)})
    return config
