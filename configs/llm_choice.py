"""Which language model reads the words best: each expands its own vocabulary, is shown the same
photos in the same episodes, and names them.

python -m v2l_jax.main --config=configs/llm_choice.py:qwen2.5-coder-0.5b-instruct
    --workdir=runs/words_of_qwen        (a workdir for each language model: they differ in words)

After the colon: an asset, hf://organisation/model, or a folder; without, SmolLM2-135M. Everything
but the language model and its words is the quickstart's; no tokenizer is trained. Not measured yet.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config(llm: str = "smollm2-135m-instruct") -> ConfigDict:
    config = quickstart.get_config()
    config.llm, config.llm_options.dtype = llm, "bfloat16"
    config.jobs = ("codebook", "evaluate", "report")
    config.codebook.expand_limit = config.codebook.local_limit = 4_096
    config.evaluate.tasks = ("few_shot",)
    controls = {"controls": ("shuffled", "no_tokens"), "control_shots": (1,)}
    config.evaluate.few_shot.update({"shots": (1, 3), "episodes": 100} | controls)
    return config
