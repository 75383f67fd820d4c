"""Numbers: how well photos come back from their words, and how often the LLM names them from words alone."""

import pathlib

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from v2l_jax.codebook.codebook import Codebook
from v2l_jax.data.episodes import Episode, draw_episodes
from v2l_jax.data.sources import WithVectors
from v2l_jax.incontext.classification import Scoring, classify, hits, make_prompts, shuffle_words
from v2l_jax.jobs import building, codebook, features, loading, tokenize
from v2l_jax.jobs.reconstruction import score
from v2l_jax.jobs.workdir import write_json
from v2l_jax.metrics.results import Result, mean, merge_results, proportion, read_results
from v2l_jax.towers import vgg


def is_done(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether every number asked for is in results.json."""
    path = workdir / "results.json"
    have = {_key(result) for result in read_results(path)} if path.exists() else set()
    return ("psnr",) in have and all(key in have for key in _few_shot_keys(config))


def run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Writes results.json, a row as soon as it is measured; rows that are there are not measured again."""
    photos = loading.photos(config)
    path = workdir / "results.json"
    have = {_key(result) for result in read_results(path)} if path.exists() else set()
    if ("psnr",) not in have:
        merge_results(path, _reconstruction(config, workdir, photos), "evaluate/reconstruction")
    missing = [key for key in _few_shot_keys(config) if key not in have]
    if missing:
        _few_shot(config, workdir, photos, missing)


def _key(result: Result) -> tuple:
    if result.metric != "few_shot_accuracy":
        return (result.metric,)
    return tuple(result.measured_on[name] for name in ("ways", "shots", "control"))


def _few_shot_keys(config: ConfigDict) -> list[tuple[int, int, str]]:
    c = config.evaluate.few_shot
    real = [(ways, shots, "none") for ways in c.ways for shots in c.shots]
    return real + [(ways, shots, "shuffled") for ways in c.ways for shots in c.control_shots]


def _reconstruction(config: ConfigDict, workdir: pathlib.Path, photos: loading.Photos) -> list[Result]:
    mesh = loading.mesh(config)
    trained = building.trained_tokenizer(config, workdir, len(photos.train), mesh)
    lpips = vgg.load_lpips(loading.locate(config.train.perceptual)) if config.train.perceptual else None
    held_out = WithVectors(photos.held_out, features.cached(config, workdir, "held_out", photos.held_out))
    scores = score(config, trained.model, trained.variables, held_out, mesh, lpips)
    setting = {
        "dataset": photos.dataset,
        "split": "held-out",
        "image_size": config.model.image_size,
        "local_tokens": scores.usage.tokens // len(held_out),
        "global_tokens": config.model.global_tokens,
        "llm": config.llm.weights,
    }
    rows = [mean(metric, values, **setting) for metric, values in scores.per_image.items()]
    tokens = scores.usage.tokens
    rows.append(Result("codebook_usage", scores.usage.fraction, tokens, None, setting | {"words": scores.usage.words}))
    rows.append(Result("codebook_perplexity", scores.usage.perplexity, tokens, None, setting | {"words": scores.usage.words}))
    return rows


def _few_shot(
    config: ConfigDict, workdir: pathlib.Path, photos: loading.Photos, keys: list[tuple[int, int, str]]
) -> None:
    c = config.evaluate.few_shot
    llm = loading.language_model(config)
    decoder = llm.decoder(loading.mesh(config), config.llm.token_budget)
    global_ = Codebook.load(codebook.global_path(workdir))
    global_.check_made_for(llm.tokenizer.fingerprint)
    words = image_words(workdir, global_, c.tokens)
    for ways, shots, control in keys:
        episodes = make_episodes(config, photos, ways, shots)
        shown = shuffle_words(words, config.seed) if control == "shuffled" else words
        label = f"{ways}-way {shots}-shot" + (", shuffled words" if control == "shuffled" else "")
        chosen = classify(decoder, llm.tokenizer, episodes, shown, scoring(config), label)
        right = hits(chosen, episodes)
        row = proportion(
            "few_shot_accuracy",
            int(right.sum()),
            len(episodes),
            ways=ways,
            shots=shots,
            tokens=c.tokens,
            control=control,
            repetitions=c.repetitions,
            induction=c.induction,
            rule=c.rule,
            calibrate=c.calibrate,
            dataset=photos.dataset,
            llm=config.llm.weights,
            tower=global_.tower,
        )
        logging.info("%s: %.3f (95 %% interval %.3f to %.3f, %d episodes)", label, row.value, *row.ci95, row.count)
        merge_results(workdir / "results.json", [row], f"evaluate/few_shot/{ways}-way/{shots}-shot/{control}")
        if control == "none" and not (workdir / "prompt_example.json").exists():
            _write_example(config, workdir, episodes[0], words, episodes[0].class_names[chosen[0]])


def scoring(config: ConfigDict) -> Scoring:
    """How `evaluate.few_shot` asks and reads answers."""
    c = config.evaluate.few_shot
    return Scoring(rule=c.rule, calibrate=c.calibrate, induction=c.induction, repetitions=c.repetitions)


def image_words(workdir: pathlib.Path, global_: Codebook, tokens: int) -> list[tuple[str, ...]]:
    """Words of all photos, training ones first, then held-out ones."""
    ids = np.concatenate([tokenize.read(workdir, split).global_ids[:, :tokens] for split in tokenize.SPLITS])
    return [tuple(global_.texts[i] for i in row) for row in ids]


def make_episodes(config: ConfigDict, photos: loading.Photos, ways: int, shots: int) -> tuple[Episode, ...]:
    """Episodes whose shots are training photos and whose queries are held-out ones, indexed as in `image_words`."""
    labels = np.concatenate([photos.train.labels, photos.held_out.labels])
    first_held_out = len(photos.train.labels)
    known = np.flatnonzero(labels >= 0)
    return draw_episodes(
        labels,
        photos.held_out.class_names,
        ways,
        shots,
        config.evaluate.few_shot.episodes,
        config.seed,
        query_indices=known[known >= first_held_out],
        shot_indices=known[known < first_held_out],
    )


def check(config: ConfigDict) -> None:
    """Raises DataError, before any job has run, if a class has too few photos for the episodes asked."""
    photos = loading.photos(config)
    for ways in config.evaluate.few_shot.ways:
        for shots in config.evaluate.few_shot.shots:
            make_episodes(config, photos, ways, shots)


def _write_example(
    config: ConfigDict, workdir: pathlib.Path, episode: Episode, words: list[tuple[str, ...]], answer: str
) -> None:
    """Keeps the first episode's prompt for the report."""
    prompt = str(make_prompts([episode], words, scoring(config))[0])
    write_json(workdir / "prompt_example.json", {"prompt": prompt, "answer": answer, "expected": episode.query.class_name})
