"""The page that goes with a released tokenizer: what it is, what it was trained on, how good it is.
Every number is the run's.
"""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from v2l_jax.metrics.results import Result
from v2l_jax.report.data import AssetNote
from v2l_jax.report.tables import Number

_COLUMNS = (
    ("bits_per_pixel", "bits a pixel", 3),
    ("psnr", "PSNR", 2),
    ("ssim", "SSIM", 3),
    ("lpips", "LPIPS", 3),
)
_SETS = (
    ("held-out", "photos of the training folders that were held out"),
    ("further", "photos of another source"),
)


@dataclasses.dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Attributes:
      name: the tokenizer's.
      results: rows of the task "release": one for each metric, photo set and method.
      untrained: the method that is the network before training.
      codecs: the methods that are classical codecs.
      described: the release's config.json.
      sizes: bytes of each file with numbers.
      parameters: how many numbers training set.
      llm: the language model whose words these are.
      train_photos: how many photos it was trained on.
      steps, best_step, batch_size, train_seconds: of the training.
      environment: the run's environment.json.
      trained_on: where the training folders come from.
      measured_on: where the photos of another source come from.
      examples: file name of the picture with examples.
    """

    name: str
    results: Sequence[Result]
    untrained: str
    codecs: Sequence[str]
    described: Mapping[str, Any]
    sizes: Mapping[str, int]
    parameters: int
    llm: str
    train_photos: int
    steps: int
    best_step: int | None
    batch_size: int
    train_seconds: float
    environment: Mapping[str, Any]
    trained_on: Sequence[AssetNote]
    measured_on: Sequence[AssetNote]
    examples: str


def model_card(facts: CardFacts) -> str:
    """Markdown; the same facts give the same text."""
    model, size = facts.described["model"], facts.described["image_size"]
    grid = size // 2 ** (len(model["channel_multipliers"]) - 1)
    seen = facts.steps * facts.batch_size
    parts = [
        f"# {facts.name}",
        f"A small V2L tokenizer: a {size}×{size} picture becomes {grid}×{grid} local words (of "
        f"{model['num_local_words']:,}) and "
        f"{facts.described['global_tokens']} global words (of {model['num_global_words']:,}) of "
        f"the language model {facts.llm}, "
        "and comes back from them.",
        f"![Photos above, what came back from their words below]({facts.examples})",
        _usage(facts),
        "## How good it is",
        "On photos that it was never trained on, each cropped to its centre square and brought to "
        "that size; means with 95 % intervals. " + _held_out_note(facts),
        *(_table(facts, photos, about) for photos, about in _SETS),
        _reading(facts),
        "## How it was trained",
        _list(
            f"photos: {facts.train_photos:,}, random crops, mirrored or not",
            f"steps: {facts.steps:,} of {facts.batch_size} crops, so {seen:,} crops; "
            f"each photo {seen / max(facts.train_photos, 1):.0f} times",
            "kept: the weights (their moving average where there is one) after step "
            f"{facts.best_step:,}"
            if facts.best_step
            else "",
            f"time: {facts.train_seconds / 3600:.1f} hours by the clock, with evaluations, pauses "
            "and whatever else ran there",
            f"machine: {facts.environment.get('cpu_cores')} cores of "
            f"{facts.environment.get('cpu')}; "
            f"{facts.environment.get('devices')}; code {facts.environment.get('git_commit')}",
            f"network: {facts.parameters:,} parameters; channels {model['channels']} × "
            f"{tuple(model['channel_multipliers'])}",
        ),
        "## Files",
        _list(
            *(f"`{name}`: {count / 1e6:.1f} MB" for name, count in facts.sizes.items()),
            f"stored as {facts.described['dtype']}",
        ),
        "## Photos and their licences",
        _list(*(f"{note.name} ({note.source}): {note.licence}" for note in facts.trained_on)),
        "Measured on, besides:" if facts.measured_on else "",
        _list(*(f"{note.name} ({note.source}): {note.licence}" for note in facts.measured_on)),
        "What these licences say of weights trained on such photos is not settled; the weights "
        "hold no photo.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _usage(facts: CardFacts) -> str:
    size = facts.described["image_size"]
    return textwrap.dedent(f"""\
        ```python
        from v2l_jax.tokenizers import decode, load_tokenizer, tokenize

        t = load_tokenizer("{facts.name}")  # or the folder of this file
        # image [b, {size}, {size}, 3] in [-1, 1]
        tokens = tokenize(t.model, t.variables, image, image_embedding, k=t.global_tokens)
        picture = decode(t.model, t.variables, tokens)
        words = [t.local_words.texts[i] for i in tokens.local_ids[0].ravel()]
        ```

        `image_embedding` are the vectors of the images by the tower
        {facts.described["tower"]}. The words belong to the tokenizer with the fingerprint
        {facts.described["llm"]}; `load_tokenizer(…, llm=fingerprint)` refuses another.""")


def _held_out_note(facts: CardFacts) -> str:
    if not facts.best_step or facts.best_step == facts.steps:
        return ""
    return (
        "The step that was kept was chosen on the held-out photos; those of another source had "
        "no say in it."
    )


def _table(facts: CardFacts, photos: str, about: str) -> str:
    rows = {
        (r.measured_on["method"], r.metric): r
        for r in facts.results
        if r.measured_on.get("photos") == photos
    }
    methods = [
        method
        for method in (facts.name, facts.untrained, *facts.codecs)
        if (method, "psnr") in rows
    ]
    if not methods:
        return ""
    columns = [
        column for column in _COLUMNS if any((method, column[0]) in rows for method in methods)
    ]
    lines = [f"{rows[methods[0], 'psnr'].count} {about}:", ""]
    lines.append(
        "| | " + " | ".join(label for _, label, _ in columns) + " | words in use | perplexity |"
    )
    lines.append("|---|" + "---|" * (len(columns) + 2))
    for method in methods:
        cells = [_cell(rows.get((method, metric)), decimals) for metric, _, decimals in columns]
        usage, perplexity = (
            rows.get((method, "codebook_usage")),
            rows.get((method, "codebook_perplexity")),
        )
        used = (
            f"{usage.value * int(usage.measured_on['words']):,.0f} ({100 * usage.value:.0f} %)"
            if usage
            else ""
        )
        lines.append(
            f"| {_label(facts, method)} | "
            + " | ".join([*cells, used, f"{perplexity.value:,.0f}" if perplexity else ""])
            + " |"
        )
    return "\n".join(lines)


def _cell(result: Result | None, decimals: int) -> str:
    if result is None:
        return "–"
    value, _, interval = Number(decimals).cell(result).partition("\n")
    ends = {Number(decimals).text(end) for end in result.ci95 or ()}
    return f"{value} ({interval})" if interval and len(ends) == 2 else value


def _label(facts: CardFacts, method: str) -> str:
    return {facts.name: f"**{facts.name}**", facts.untrained: "the same network, untrained"}.get(
        method, method
    )


def _reading(facts: CardFacts) -> str:
    rows = {
        (r.measured_on["method"], r.metric): r.value
        for r in facts.results
        if r.measured_on.get("photos") == "held-out"
    }
    own = rows.get((facts.name, "bits_per_pixel"))
    if own is None:
        return ""
    larger = [name for name in facts.codecs if rows.get((name, "bits_per_pixel"), 0) > own]
    text = (
        "Bits of the words are counted as if each were as likely as any other. A codec gets the "
        "best quality whose whole file, headers "
        "included, is no larger than that"
    )
    return text + (
        f"; of {' and '.join(larger)} even the lowest quality can be larger, and is shown at the "
        "bits it took."
        if larger
        else "."
    )


def _list(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines if line)
