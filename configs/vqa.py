"""Visual question answering (Zhu et al. 2024, Fig. 5): SmolLM2 answers questions about COCO photos
and drawn shapes from their words.

python -m v2l_jax.main --config=configs/vqa.py --workdir=runs/quickstart      (after the quickstart, on its words)

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
    config.evaluate.vqa = ConfigDict()
    config.evaluate.vqa.sets = ("coco_qa", "easy_vqa")  # of those below
    config.evaluate.vqa.questions = (
        300  # of each set, drawn by the seed, where it has more; 0 = all
    )
    config.evaluate.vqa.shown_questions = 200  # that examples are drawn from; 0 = all
    config.evaluate.vqa.shots = 5
    config.evaluate.vqa.shot_choice = (
        "random"  # or "similar": the questions that are most alike by the tower's text side
    )
    config.evaluate.vqa.tokens = 21  # words a picture
    # "open" is the published way: greedy, up to the end of the line; "closed" takes the likeliest
    # of the set's answers.
    config.evaluate.vqa.answering = ("open", "closed")
    config.evaluate.vqa.max_new_tokens = 10
    config.evaluate.vqa.candidates = (
        0  # "closed" chooses among the set's so many most frequent answers; 0 = all
    )
    config.evaluate.vqa.controls = ("no_tokens", "shuffled")
    config.evaluate.vqa.pictures = 8  # kept for the report

    # COCO-QA (Ren et al. 2015): folders with questions.txt, answers.txt, img_ids.txt, types.txt.
    # The sample has 20 questions in all,
    # so each is asked after examples from the other 19.
    config.evaluate.vqa.coco_qa = ConfigDict()
    config.evaluate.vqa.coco_qa.name = "COCO-QA sample"
    config.evaluate.vqa.coco_qa.asked = (
        "coco-qa-sample/cocoqa-2015-05-17/train",
        "coco-qa-sample/cocoqa-2015-05-17/test",
    )
    config.evaluate.vqa.coco_qa.shown = (
        "coco-qa-sample/cocoqa-2015-05-17/train",
        "coco-qa-sample/cocoqa-2015-05-17/test",
    )
    config.evaluate.vqa.coco_qa.images = "coco-qa-sample/images"

    # easy-VQA: coloured shapes on white. The default tower knows photos of ImageNet's things, and
    # cannot see what is asked.
    config.evaluate.vqa.easy_vqa = ConfigDict()
    config.evaluate.vqa.easy_vqa.name = "easy-VQA"
    config.evaluate.vqa.easy_vqa.asked = "easy-vqa/test"
    config.evaluate.vqa.easy_vqa.shown = "easy-vqa/train"

    # VQA v2 (Goyal et al. 2017), if you have it: questions file, annotations file, folder of COCO
    # images.
    config.evaluate.vqa.vqa_v2 = ConfigDict()
    config.evaluate.vqa.vqa_v2.name = "VQA v2"
    config.evaluate.vqa.vqa_v2.asked = ("", "", "")
    config.evaluate.vqa.vqa_v2.shown = ("", "", "")
    return config
