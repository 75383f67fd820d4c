"""The paper's Table 1 on the quickstart's photos: 2- and 5-way, by shots, repetitions and
induction, with 5 and 21 words.

python -m v2l_jax.main --config=configs/few_shot.py --workdir=runs/quickstart
    (after the quickstart, on its tokenizer)

For the paper's own episodes, name their files and photos in episode_file and episode_photos.

5 words, published scoring, 100 episodes (SmolLM2-135M, ConSE tower): 2-way 0.59 without induction,
0.75, 0.75, 0.79 with 1, 3, 5 shots, 0.75, 0.77, 0.81 with 1, 3, 5 repetitions; 5-way 0.50; 0.61,
0.57, 0.67; 0.61, 0.57, 0.59; shuffled words 0.58 and 0.19. By calibrated likelihood 2-way 0.75;
0.86, 0.90, 0.88; 0.80, 0.81, 0.83; 5-way 0.59; 0.61, 0.68, 0.73; 0.63, 0.67, 0.65; shuffled 0.51
and 0.21. These 36 rows took 11 minutes on 2 cores.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    config = quickstart.get_config()
    config.evaluate.tasks = ("few_shot",)
    asked = {"repetitions": (0, 1, 3, 5), "induction": (True, False), "table_1": True}
    asked |= {"tokens": (5, 21), "rule": ("greedy", "likelihood"), "episodes": 100}  # of 72 rows
    controls = {"controls": ("no_tokens", "shuffled"), "control_shots": (1,)}
    config.evaluate.few_shot.update(asked | controls)
    # The paper's codebook has bigrams and trigrams.
    config.representation.v2l_words.single_words = False
    return config
