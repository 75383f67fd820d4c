"""The trained tokenizer as files that others can load, measured as they are, with a model card."""

import dataclasses
import math
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict
from PIL import Image

from v2l_jax.assets import registry
from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.sources import Source
from v2l_jax.data.transforms import to_signed, to_uint8
from v2l_jax.jobs.identity import note
from v2l_jax.metrics.codebook_usage import CodebookUsage
from v2l_jax.metrics.codecs import Codec, codecs, compress
from v2l_jax.metrics.image_quality import image_quality
from v2l_jax.metrics.results import Result, mean, read_results
from v2l_jax.options import NAME, one_of, option
from v2l_jax.report.data import AssetNote
from v2l_jax.report.model_card import CardFacts, model_card
from v2l_jax.run import building, loading
from v2l_jax.run.reconstruction import full_batches, reconstruct, score
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import environments, is_from_this_training, note_training, read_json
from v2l_jax.tokenizers.base import VisualTokenizer
from v2l_jax.tokenizers.released import DTYPES, load_tokenizer
from v2l_jax.towers.vgg import lpips_with


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a release."""

    name: str = option("v2l", "what the released tokenizer is called", NAME, changes_results=False)
    dtype: str = option("float16", "of the stored numbers", one_of(*DTYPES))


UNTRAINED = "untrained"
EXAMPLES = "examples.png"


def folder(config: ConfigDict, workdir: pathlib.Path) -> pathlib.Path:
    """The files to hand on."""
    return workdir / "release" / config.release.name


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether the model card, which comes last, is there, of the tokenizer as it is trained now."""
    home = folder(config, workdir)
    return (home / "README.md").exists() and is_from_this_training(home.parent, workdir)


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes the tokenizer's files, measures what is read back from them, and writes README.md; the
    same again changes nothing.
    """
    context = Run(config, workdir, lambda task: note(config, task, workdir))
    home = folder(config, workdir)
    if not is_from_this_training(home.parent, workdir):
        shutil.rmtree(home, ignore_errors=True)
    note_training(home.parent, workdir)
    if not (home / "config.json").exists():
        trained = context.trained
        trained.tokenizer.save(
            home,
            trained.variables["params"],
            {"local": trained.local_words, "global": trained.global_words},
            image_size=config.model.image_size,
            name=config.release.name,
            dtype=config.release.dtype,
        )
    released = load_tokenizer(home, llm=context.local_words.llm)
    released.check_words(context.local_words)
    books = {"local": released.local_words, "global": released.global_words}
    tokenizer = building.tokenizer(config, building.vectors(books))
    held_out = lambda: context.split_features("held_out")
    sets = {"held-out": building.with_inputs(tokenizer, context.photos.held_out, held_out)}
    if further := loading.report_photos(config):
        vectors = lambda: context.features("further", further)
        sets["further"] = building.with_inputs(tokenizer, further, vectors)
    for photos, source in sets.items():
        _measure(context, tokenizer, released.variables, photos, source)
    shown = list(sets.values())[-1]
    with atomic_write(home / EXAMPLES) as draft:
        Image.fromarray(_examples(context, tokenizer, released.variables, shown)).save(draft)
    with atomic_write(home / "README.md") as draft:
        draft.write_text(model_card(_facts(context, home)), encoding="utf-8")


def bits_a_picture(tokenizer: VisualTokenizer, variables: Any, image_size: int) -> float:
    """Of the tokens of one picture, each entry of a stream's codebook as likely as any other."""
    batch = {
        name: jax.ShapeDtypeStruct((1, *shape), np.float32)
        for name, shape in tokenizer.input_shapes(image_size).items()
    }
    tokens = jax.eval_shape(tokenizer.encode, variables, batch)
    return sum(ids.size * math.log2(tokenizer.choices[name]) for name, ids in tokens.items())


def _measure(
    run: Run, tokenizer: VisualTokenizer, variables: Any, photos: str, source: Source
) -> None:
    """Rows of one photo set: the released files, the network before training, and codecs at as many
    bits.
    """
    config, side = run.config, run.config.model.image_size
    bits, pixels = bits_a_picture(tokenizer, variables, side), side**2
    initial = building.trainer(config, tokenizer, len(run.photos.train)).initial_state().params
    networks = {config.release.name: variables["params"], UNTRAINED: jax.device_get(initial)}
    done = {(row.measured_on.get("photos"), row.measured_on.get("method")) for row in _results(run)}
    for method, params in networks.items():
        if (photos, method) not in done:
            scores = score(
                config,
                tokenizer,
                {"params": params, "frozen": variables["frozen"]},
                source,
                run.mesh,
                run.lpips,
            )
            _record(
                run,
                photos,
                method,
                scores.per_image,
                np.full(len(source), bits / pixels),
                scores.usage,
            )
    for codec in codecs():
        if (photos, codec.name) not in done:
            per_image, sizes = _score_codec(run, tokenizer, source, codec, bits / 8)
            _record(run, photos, codec.name, per_image, 8 * sizes / pixels)


def _results(run: Run) -> list[Result]:
    return [
        row
        for row in read_results(run.workdir / "results.json")
        if row.measured_on.get("task") == "release"
        and row.measured_on.get("identity") == run.identify("release").get("identity")
    ]


def _record(
    run: Run,
    photos: str,
    method: str,
    per_image: dict[str, np.ndarray],
    bits_a_pixel: Float[np.ndarray, " images"],
    usage: CodebookUsage | None = None,
) -> None:
    setting = {"photos": photos, "method": method, "image_size": run.config.model.image_size}
    rows = [mean(metric, values, **setting) for metric, values in per_image.items()]
    rows.append(mean("bits_per_pixel", bits_a_pixel, **setting))
    if usage is not None:
        counted = setting | {"words": usage.words}
        rows.append(Result("codebook_usage", usage.fraction, usage.tokens, None, counted))
        rows.append(Result("codebook_perplexity", usage.perplexity, usage.tokens, None, counted))
    run.record("release", setting, rows)


def _score_codec(
    run: Run, tokenizer: VisualTokenizer, source: Source, codec: Codec, budget: float
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    values, sizes = [], []
    for batch, count in full_batches(run.config, tokenizer, source, run.mesh):
        pictures = [
            compress(picture, codec, budget) for picture in to_uint8(np.asarray(batch["image"]))
        ]
        decoded = np.stack([to_signed(picture) for picture, _ in pictures])
        scores = image_quality(batch["image"], decoded, lpips_with(run.lpips))
        values.append(jax.tree.map(lambda x: np.asarray(x)[:count], scores))
        sizes += [size for _, size in pictures][:count]
    return jax.tree.map(lambda *x: np.concatenate(x), *values), np.array(sizes)


def _examples(
    run: Run, tokenizer: VisualTokenizer, variables: Any, source: Source, most: int = 6
) -> UInt8[np.ndarray, "height width 3"]:
    """Photos above, what came back from their words below."""
    originals, returned = [], []
    for batch, count in full_batches(run.config, tokenizer, source, run.mesh):
        originals += list(to_uint8(np.asarray(batch["image"])))[:count]
    for _, pictures, _ in reconstruct(run.config, tokenizer, variables, source, run.mesh):
        returned += list(pictures)
    return np.concatenate(
        [np.concatenate(row[:most], axis=1) for row in (originals, returned)], axis=0
    )


def _facts(run: Run, home: pathlib.Path) -> CardFacts:
    config, workdir = run.config, run.workdir
    training = read_json(workdir / "training.json", {})
    named = [path.partition("/")[0] for path in (*config.data.labelled, *config.data.unlabelled)]
    further = [path.partition("/")[0] for path in config.data.report]
    asset = lambda name: registry.ASSETS.get(name)
    notes = lambda names: [
        AssetNote(a.name, a.source, a.licence) for a in map(asset, dict.fromkeys(names)) if a
    ]
    described = read_json(home / "config.json", {})
    return CardFacts(
        name=config.release.name,
        results=_results(run),
        untrained=UNTRAINED,
        codecs=[codec.name for codec in codecs()],
        described=described,
        sizes={
            path.name: path.stat().st_size
            for path in sorted(home.iterdir())
            if path.suffix == ".safetensors"
        },
        parameters=sum(
            int(np.prod(leaf.shape))
            for leaf in jax.tree.leaves(load_tokenizer(home).variables["params"])
        ),
        llm=config.llm,
        train_photos=len(run.photos.train),
        steps=training.get("steps", 0),
        best_step=training.get("best_step"),
        batch_size=config.train.batch_size,
        train_seconds=read_json(workdir / "timings.json", {}).get("train", 0.0),
        environment=environments(workdir)[-1] if environments(workdir) else {},
        trained_on=notes(named),
        measured_on=notes(further),
        examples=EXAMPLES,
    )
