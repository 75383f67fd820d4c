"""Captions against references: CIDEr, BLEU-4 and ROUGE-L as COCO scores them, through
pycocoevalcap, without its Java.

COCO's tokenizer is Stanford's PTBTokenizer, a Java program. `tokenize` writes down the part of it
that captions meet, so that scores are the same on every machine, and a test holds it against the
Java program where there is a `java`. They differ on addresses of the web, emoticons and rare
abbreviations.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from v2l_jax.errors import DataError
from v2l_jax.metrics.results import Interval, Result, Scalar

_BRACKETS = {
    "(": " -lrb- ",
    ")": " -rrb- ",
    "[": " -lsb- ",
    "]": " -rsb- ",
    "{": " -lcb- ",
    "}": " -rcb- ",
}
_SPELLED = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "—": " ", "–": " ", "…": " ", "€": "$", "£": "#"}
    | _BRACKETS
)
_TOKEN = re.compile(
    r"""-[lr][rsc]b-                                              # brackets are words to COCO
      | (?:[^\W\d_]\.){2,}                                        # u.s., p.m.
      | \b(?:mr|mrs|ms|dr|st|mt|ave|inc|jr|sr|vs|etc)\.           # abbreviations keep their point
      | \bno\.(?=\s*\d)
      | o'clock | ma'am | (?<!\S)'n'(?!\S)
      | can(?=not\b) | (?:gon|wan)(?=na\b) | got(?=ta\b)
      | \w+?(?=n't\b) | n't\b | '(?:s|re|ve|ll|d|m)\b            # ca n't, dog 's
      | \d*(?:[.,:]\d+)+                                         # 5.00, 5:30, .01
      | \w+(?:[-/&]\w+)*                                         # half-eaten, and/or
      | [!?]{2,} | \#+ | [$%&@*+=/<>~^|\\]                        # other punctuation is dropped
    """,
    re.VERBOSE,
)
_RESAMPLES = 1000


class CaptionScores(NamedTuple):
    """Scores of each caption, and what BLEU needs to be scored over any set of them.

    Attributes:
      cider: CIDEr-D, 0..10 (10 for a reference itself of four words or more), with the document
        frequencies of all references given; nan for a single image, whose frequencies say nothing.
      rouge_l: F-measure of the longest common subsequence, β = 1.2, 0..1.
      bleu_counts: n-grams that match (n = 1..4), n-grams (n = 1..4), words, words of the reference
        of the nearest length.
    """

    cider: Float[np.ndarray, " captions"]
    rouge_l: Float[np.ndarray, " captions"]
    bleu_counts: Int[np.ndarray, "captions 10"]


def tokenize(caption: str) -> str:
    """Words of a caption as COCO's evaluation sees them, joined by spaces: lower case, no
    punctuation, "dog 's", "ca n't".
    """
    return " ".join(_TOKEN.findall(caption.lower().translate(_SPELLED)))


def has_words(references: Sequence[str]) -> bool:
    """Whether any of an image's references holds a word, so that a caption can be scored."""
    return any(map(tokenize, references))


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Scores one caption an image.

    Args:
      captions: as generated; an empty one scores 0.
      references: of each image, at least one with a word; one without, such as "." or an emoji,
        counts as an empty one, as in COCO's evaluation.

    Raises:
      DataError: no captions, or an image none of whose references holds a word.
    """
    from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    if not len(captions):
        raise DataError("there are no captions to score")
    hypotheses = {i: [tokenize(caption)] for i, caption in enumerate(captions)}
    truths = {i: [tokenize(text) for text in texts] for i, texts in enumerate(references)}
    if wordless := [i for i, texts in truths.items() if not any(texts)]:
        raise DataError(
            f"image {wordless[0]} holds no word in any reference: {list(references[wordless[0]])}"
        )
    counts = []
    for i, truth in truths.items():
        cooked = cook_test(hypotheses[i][0], cook_refs(truth), eff="closest")
        counts.append([*cooked["correct"], *cooked["guess"], cooked["testlen"], cooked["reflen"]])
    cider = Cider().compute_score(truths, hypotheses)[1] if len(captions) > 1 else [math.nan]
    return CaptionScores(
        np.asarray(cider, np.float64),
        np.asarray(Rouge().compute_score(truths, hypotheses)[1], np.float64),
        np.asarray(counts),
    )


def bleu_4(counts: Int[np.ndarray, "*sets 10"]) -> Float[np.ndarray, "*sets"]:
    """Corpus BLEU-4 (Papineni et al. 2002) of summed `CaptionScores.bleu_counts`; pycocoevalcap's
    smoothing of empty counts.
    """
    matched, total = counts[..., :4] + 1e-15, counts[..., 4:8] + 1e-9
    ratio = (counts[..., 8] + 1e-15) / (counts[..., 9] + 1e-9)
    return np.asarray(
        np.exp(np.log(matched / total).mean(axis=-1)) * np.exp(np.minimum(0, 1 - 1 / ratio))
    )


def bootstrap_interval(
    samples: Shaped[np.ndarray, "captions columns"],
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
) -> Interval | None:
    """95 % percentile interval over captions drawn with replacement; None below two captions.

    Args:
      samples: numbers of each caption.
      statistic: sums over the captions of each draw, [draws, columns] -> [draws].
      seed: of the draws.
    """
    captions = len(samples)
    if captions < 2:
        return None
    draws = np.random.default_rng(seed).multinomial(
        captions, np.full(captions, 1 / captions), size=_RESAMPLES
    )
    low, high = np.percentile(statistic(draws @ samples), [2.5, 97.5])
    return float(low), float(high)


def caption_results(scores: CaptionScores, **measured_on: Scalar) -> list[Result]:
    """CIDEr and ROUGE-L as means over captions, BLEU-4 over the corpus, all with bootstrap
    intervals.

    Most captions have a CIDEr near 0 and a few a high one, so an interval symmetric about the mean
    would reach below 0.
    """
    counts = scores.bleu_counts

    def mean(metric: str, values: np.ndarray) -> Result:
        interval = bootstrap_interval(values[:, None], lambda sums: sums[:, 0] / len(values))
        return Result(metric, float(values.mean()), len(values), interval, measured_on)

    bleu = Result(
        "bleu_4",
        float(bleu_4(counts.sum(axis=0))),
        len(counts),
        bootstrap_interval(counts, bleu_4),
        measured_on,
    )
    return [mean("cider", scores.cider), bleu, mean("rouge_l", scores.rouge_l)]
