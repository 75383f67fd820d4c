"""The paper's tables by their configs, one workdir, on tiny files of the very formats: a random
LLaMA with SentencePiece, a random CLIP, a checkpoint in the published layout, a TFDS-prepared
imagenet2012, Mini-ImageNet with published episodes and Frozen's questions, COCO captions, VQA v2,
and pytorch-fid's Inception.
"""

import importlib.resources
import io
import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from tests.inception_checkpoint import torchvision_layout
from tests.published_checkpoint import published_arrays
from tests.tiny_models import sentencepiece, write_clip, write_llm
from tests.torch_zip import write_torch
from v2l_jax import experiment
from v2l_jax.codebook.codebook import Codebook
from v2l_jax.errors import ConfigError
from v2l_jax.jobs import codebook, runner
from v2l_jax.metrics.results import read_results
from v2l_jax.run import building, loading, released_words
from v2l_jax.towers.inception import load_inception

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "v2l"
GLOBAL = 40


def _photo(rng):
    return Image.fromarray(np.tile(rng.integers(0, 256, (2, 2, 3), np.uint8), (10, 12, 1)))


def _write_photo(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    _photo(rng).save(path)


def _write_imagenet(folder, synsets, rng, monkeypatch):
    """What `tfds build imagenet2012 --file_format=array_record` leaves, of 40 images."""
    monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    with registered.skip_registration():

        class Imagenet2012(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("5.1.0")

            def _info(self):
                features = {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=synsets),
                    "file_name": tfds.features.Text(),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager):
                return {
                    "train": self._generate_examples(28),
                    "validation": self._generate_examples(12),
                }

            def _generate_examples(self, count):
                for i in range(count):
                    file = io.BytesIO()
                    _photo(rng).save(file, "JPEG")
                    file.seek(0)
                    yield i, {"image": file, "label": i % 3, "file_name": f"{i}.JPEG"}

    Imagenet2012(data_dir=folder, file_format="array_record").download_and_prepare()


def _write_mini_imagenet(data, synsets, rng):
    images = [f"{wnid}/{wnid}{i:08}.jpg" for wnid in synsets[:3] for i in range(3)]
    for image in images:
        _write_photo(data / "mini_imagenet" / image, rng)
    episodes = [(images[a], images[b], images[c]) for a, b, c in ((0, 3, 1), (6, 2, 7), (4, 8, 5))]
    path = data / "fewshot_split" / "2_way_1_shot.csv"
    path.parent.mkdir()
    path.write_text("".join(",".join(episode) + ",\n" for episode in episodes))
    names = dict(zip(synsets, ("dax", "blicket", "perpo")))
    caption = lambda image: f"This is a {names[image[:9]]}."
    records = [
        {
            "question_id": number,
            "image_1": a,
            "caption_1": caption(a),
            "image_2": b,
            "caption_2": caption(b),
            "question": "This is a",
            "question_image": c,
            "answer": names[c[:9]],
        }
        for number, (a, b, c) in enumerate(episodes)
    ]
    (data / "mini_imagenet" / OPEN_ENDED).write_text(json.dumps(records))


def _write_coco(data, rng):
    records = []
    for split, count in (("val2017", 6), ("val2014", 3), ("train2014", 3)):
        for i in range(1, count + 1):
            name = f"{i:012d}.jpg" if split == "val2017" else f"COCO_{split}_{i:012d}.jpg"
            _write_photo(data / "coco" / split / name, rng)
            records.append((split, i, name))
    captions = {
        "images": [{"id": i, "file_name": n} for s, i, n in records if s == "val2017"],
        "annotations": [
            {"image_id": i, "caption": f"a cat and {i} dogs"} for s, i, _ in records[:6]
        ],
    }
    path = data / "coco" / "annotations" / "captions_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(captions))
    (data / "vqa").mkdir()
    for split in ("val2014", "train2014"):
        asked = [{"question_id": i, "image_id": i, "question": "a cat?"} for i in (1, 2, 3)]
        answered = [
            {
                "question_id": i,
                "image_id": i,
                "answer_type": "yes/no",
                "question_type": "is",
                "answers": [{"answer": "yes"}] * 10,
            }
            for i in (1, 2, 3)
        ]
        (data / "vqa" / f"v2_OpenEnded_mscoco_{split}_questions.json").write_text(
            json.dumps({"data_subtype": split, "questions": asked})
        )
        (data / "vqa" / f"v2_mscoco_{split}_annotations.json").write_text(
            json.dumps({"annotations": answered})
        )


@pytest.fixture(scope="module")
def files(asset, tmp_path_factory):
    """A folder as a researcher's, with data/ as the official archives unpack."""
    home, rng = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    synsets = asset("imagenet-synsets").read_text().split()
    with pytest.MonkeyPatch.context() as monkeypatch:
        _write_imagenet(home / "tfds", synsets, rng, monkeypatch)
    _write_mini_imagenet(home / "data", synsets, rng)
    _write_coco(home / "data", rng)
    backend = sentencepiece(360)
    write_llm(home / "llama", "llama", backend, context=4096)
    write_clip(home / "clip")
    arrays = published_arrays(backend.get_vocab_size(), GLOBAL, 12)
    write_torch(home / "v2l.pth", {"state_dict": arrays, "epoch": 100})
    inception = torchvision_layout(load_inception(asset("inception-v3-fid")), rng)
    write_torch(home / "data" / "pt_inception-2015-12-05-6726825d.pth", inception)
    words = [f"word{i}" for i in range(GLOBAL)]
    (home / "words.txt").write_text("\n".join(words) + "\n")
    return home


TABLES = (
    "few_shot", "semantic_quality", "reconstruction", "denoising", "captioning", "vqa",
    "restoration",
)  # fmt: skip
OPEN_ENDED = "open_ended_mi_shots_1_ways_2_all_questions.json"
SMALL = {
    "llm_options.dtype": "float32", "tower_options.dtype": "float32", "model.dtype": "float32",
    "data.report": "()", "model.image_size": "16", "model.channel_multipliers": "1,2",
    "model.global_tokens": "5", "train.perceptual": "", "evaluate.batch_size": "8",
    "evaluate.few_shot.ways": "2,", "evaluate.few_shot.shots": "1,",
    "evaluate.few_shot.repetitions": "0,", "evaluate.few_shot.tokens": "5,",
    "evaluate.few_shot.control_shots": "()", "evaluate.semantic_quality.tokens": "5,21",
    "evaluate.denoising.images": "2", "evaluate.denoising.corruptions": "inpainting,rotation",
    "evaluate.denoising.controls": "()", "evaluate.denoising.inception": "",
    "evaluate.captioning.queries": "2", "evaluate.captioning.examples": "4",
    "evaluate.captioning.shots": "2", "evaluate.captioning.max_new_tokens": "3",
    "evaluate.captioning.controls": "()", "evaluate.vqa.shots": "1",
    "evaluate.vqa.max_new_tokens": "3", "evaluate.vqa.controls": "()", "finetune.steps": "2",
    "finetune.batch_size": "8", "finetune.eval_images": "8", "evaluate.restoration.images": "2",
    "evaluate.restoration.controls": "()",
}  # fmt: skip


def _config(files, name, **more):
    here = {
        "llm": str(files / "llama"),
        "tower": f"clip:{files / 'clip'}",
        "data.tfds_dir": str(files / "tfds"),
        "model.released": str(files / "v2l.pth"),
        "model.released_words": str(files / "words.txt"),
    }
    config = experiment.load(CONFIGS / f"{name}.py", [*(here | SMALL | more).items()])
    config.train.steps, config.train.epochs = 0, 1.0
    return config


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """The workdir after all tables."""
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(files)  # where data/ is
        for name in TABLES:
            config = _config(files, name)
            if name != TABLES[-1]:  # the page shows what all have left
                config.jobs = tuple(job for job in config.jobs if job != "report")
            if name == "few_shot":
                config.evaluate.tasks = ("few_shot", "open_ended")
                open_ended = {"file": f"data/mini_imagenet/{OPEN_ENDED}", "shots": (1,)}
                config.evaluate.open_ended.update(open_ended | {"controls": ()})
            runner.run_jobs(config, workdir)
    return workdir


def test_every_table_is_filled(run):
    rows = read_results(run / "results.json")
    of = lambda task: {r.metric for r in rows if r.measured_on["task"] == task}
    assert of("few_shot") == {"few_shot_accuracy"}
    assert of("open_ended") == {"open_ended_accuracy"}
    assert of("semantic_quality") == {"clip_score", "clip_r_min_max", "clip_ratio"}
    assert of("reconstruction") >= {"fid", "inception_score", "psnr", "ssim", "effective_tokens"}
    assert of("denoising") >= {"psnr", "token_accuracy"}
    assert of("captioning") >= {"cider", "clip_score"}
    assert of("vqa") == {"vqa_accuracy"}
    assert of("restoration") >= {"token_accuracy", "hidden_word_nats"}
    names = {r.measured_on["llm"] for r in rows}
    assert len(names) == 1 and all(np.isfinite(r.value) for r in rows if r.metric != "psnr")
    shown = [r for r in rows if r.metric == "fid"]
    assert shown[0].measured_on["tokenizer"] == "v2l, v2l.pth"
    assert shown[0].measured_on["tokens"] == 8 * 8 + 5


def test_the_page_has_a_section_for_each(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    for title in (
        "Table 1", "Table 3", "How near words are", "Damaged pictures", "Pictures described",
        "Questions about pictures",
    ):  # fmt: skip
        assert title in page, title
    assert "LLaMA-2 7B" in page and "word3" in page and ">IS<" in page
    assert "class: tench" in page and "n01440764" not in page


def test_the_words_are_the_checkpoints(run, files):
    local, kept = (Codebook.load(p(run)) for p in (codebook.local_path, codebook.global_path))
    arrays = published_arrays(len(local), GLOBAL, 12)
    np.testing.assert_array_equal(local.embeddings, arrays["tok_embeddings.weight"])
    np.testing.assert_array_equal(kept.embeddings, arrays["tok_embeddings_global.weight"])
    assert kept.texts[:2] == ("word0", "word1") and local.token_ids[7] == (7,)
    config = _config(files, "reconstruction")
    trained = building.trained_tokenizer(config, run, 1, loading.mesh(config))
    assert trained.tokenizer.network.channel_multipliers == (1, 2)


def test_texts_are_made_anew_where_there_is_no_list(run, files):
    config = _config(files, "reconstruction", **{"model.released_words": ""})
    kept = Codebook.load(codebook.global_path(run))
    pool = Codebook(
        np.concatenate([np.eye(12, dtype="f4"), kept.embeddings[::-1] * 0.9]),
        tuple(f"other{i}" for i in range(12)) + kept.texts[::-1],
        tuple((i,) for i in range(12 + GLOBAL)),
        kept.tower,
        kept.llm,
    )
    found = released_words.rebuilt_global_codebook(config, kept.embeddings, pool)
    assert found.texts == kept.texts and found.token_ids[0] == (12 + GLOBAL - 1,)
    with pytest.raises(ConfigError, match="only 0 of the 40 global words .* word list"):
        released_words.rebuilt_global_codebook(config, kept.embeddings, pool.take(np.arange(12)))


def test_a_list_or_a_language_model_of_another_size_is_refused(run, files, tmp_path):
    config = _config(files, "reconstruction")
    vectors = released_words.word_vectors(config)
    with pytest.raises(ConfigError, match="has 12 local words, but .* subwords; name the language"):
        released_words.local_codebook(config, vectors["local"][:12], "tower")
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    config.model.released_words = str(tmp_path / "words.txt")
    with pytest.raises(ConfigError, match="has 2 words, but .* has 40 global ones"):
        released_words.listed_global_codebook(config, vectors["global"], "tower")
    np.save(tmp_path / "words.npy", np.array(["a", {}], object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot be read without executing it"):
        released_words.read_word_list(tmp_path / "words.npy")
    np.save(tmp_path / "words.npy", np.array(["ä", "b"]))
    assert released_words.read_word_list(tmp_path / "words.npy") == ("ä", "b")


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_every_config_is_valid_and_shares_the_training_runs_workdir(name):
    config = experiment.load(CONFIGS / f"{name}.py")
    experiment.check(config)
    training = experiment.load(CONFIGS.parent / "imagenet.py")
    values, asked = (
        dict(experiment.options.flatten(c, experiment.known())) for c in (training, config)
    )
    differ = {k for k in asked if k in values and values[k] != asked[k]}
    stays = {k for k in differ if not runner.may_differ(k, values[k], asked[k])}
    assert stays == ({"model.cross_attention_heads"} if name == "imagenet_local" else set())
    config.published = True
    experiment.check(config)
