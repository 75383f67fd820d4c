"""Frozen: the gradient through a frozen language model teaches a map from images to vectors; the
blind control learns only what needs no image.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny_config import get_config
from v2l_jax import experiment
from v2l_jax.llm.engine import LLMEngine
from v2l_jax.llm.llama import Llama
from v2l_jax.llm.llama_config import LlamaConfig, rotary_frequencies
from v2l_jax.parallel.mesh import make_mesh
from v2l_jax.representations import representation
from v2l_jax.representations.base import ImageSet, Slots, Text
from v2l_jax.representations.frozen import frozen_loss, init_map
from v2l_jax.run import loading
from v2l_jax.run.run import Run
from v2l_jax.tasks.harness.answers import LikeliestName
from v2l_jax.tasks.harness.prompts import encode

pytestmark = pytest.mark.real

SIZES = LlamaConfig(
    49152, 16, 24, 1, 2, 1, 8, 64, 1e-5, rotary_frequencies(8, 1e4), tied_embeddings=True
)


def _llm():
    model = Llama(SIZES)
    start = model.init(jax.random.key(0), jnp.zeros((1, 1), int), jnp.zeros((1, 1), int))
    params = jax.tree.map(lambda x: x * 20 if x.ndim > 1 else x, start["params"])
    return model, params


class _Photos:
    class_names = ("cat", "dog", "fox")
    labels = np.asarray([0, 1, 2, 0, 1, 2, -1])

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {"path": f"{index}.png"}


@pytest.fixture
def run(asset, tmp_path):
    """Three classes whose images look alike, and a tiny language model of random weights."""
    config = experiment.complete(get_config())
    config.representation.kind = "frozen"
    config.representation.frozen.update(batch_size=6, steps=100, learning_rate=0.03)
    model, params = _llm()
    tokenizer, engine = loading.text_tokenizer(config), LLMEngine(model, params)
    llm = loading.LanguageModel("tiny", model, params, tokenizer)
    photos = loading.Photos(_Photos(), _Photos(), (), "three")
    context = _Run(config, tmp_path)
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    vars(context).update(llm=llm, engine=engine, mesh=mesh, photos=photos)
    return context


class _Run(Run):
    def features(self, name, source):
        return np.eye(3, 5, dtype="f")[[0, 1, 2, 0, 1, 2, 0]]


def test_the_loss_is_that_of_the_plain_forward_pass():
    model, params = _llm()
    learnt = init_map(jax.random.key(1), 5, 2, params["embedding"])
    vectors = np.random.RandomState(0).randn(2, 5).astype("f")
    slots = [SIZES.vocab_size, SIZES.vocab_size + 1]
    batch = {
        "tokens": np.asarray([[7, *slots, 4, 9], [7, *slots, 5, -1]], np.int32),
        "targets": np.asarray([[3, 4], [3, -1]], np.int32),
        "vectors": vectors,
    }
    found = frozen_loss(model, params, learnt, batch)
    log_probs = []
    for row, caption in enumerate(([4, 9], [5])):
        mapped = (vectors[row] @ learnt["kernel"] + learnt["bias"]).reshape(2, 16)
        embedded = params["embedding"][jnp.asarray([7, *caption])]
        inputs = jnp.concatenate([embedded[:1], mapped, embedded[1:]])[None]
        hidden, _ = model.apply(
            {"params": params}, None, jnp.arange(inputs.shape[1])[None], inputs=inputs
        )
        logits = model.apply({"params": params}, hidden[0, 2:-1], method="logits")
        shares = jax.nn.log_softmax(logits)
        log_probs += [shares[i, token] for i, token in enumerate(caption)]
    np.testing.assert_allclose(found, -np.mean(log_probs), rtol=1e-4)


def test_it_learns_captions_that_the_blind_control_cannot(run):
    images = ImageSet(("train", run.photos.train))
    answers, losses = {}, {}
    for blind in (False, True):
        run.config.representation.frozen.blind = blind
        shown = representation(run.config)
        shown.prepare(run, images, 5)
        written = shown.segments(run, images, 5)
        assert all(isinstance(s[0], Slots) and s[0].vectors.shape == (2, 16) for s in written)
        prompts = [(*segments, Text(" a photo of a")) for segments in list(written)[:6]]
        names = [["cat", "dog", "fox"]] * 6
        answers[blind] = LikeliestName(names).answer(
            run.engine, run.llm.tokenizer, prompts, "naming"
        )
        log = next(run.workdir.glob(f"frozen/{shown._path(run).parent.name}/metrics.jsonl"))
        losses[blind] = [json.loads(line)["loss"] for line in log.read_text().splitlines()]
    assert losses[False][-1] < losses[True][-1]
    assert len(set(answers[True])) == 1  # the blind one has one answer for all
    kept = sorted(run.workdir.glob("frozen/*/map.safetensors"))
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    shown.prepare(run, images, 5)
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_vectors_take_ids_where_they_stand(run):
    prompt = (Text("a"), Slots(np.ones((2, 16), "f")), Text(" b"), Slots(np.ones((1, 16), "f")))
    ids = encode(run.llm.tokenizer, prompt, run.engine)
    size = SIZES.vocab_size
    assert [i - size for i in ids if i >= size] == [0, 0, 0] and ids[1] == size
