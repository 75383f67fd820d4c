"""Accuracy of answers to questions about images, by the published rules
(https://visualqa.org/evaluation.html).

Where the rules and the published evaluation code differ, this is what the code does, so that
numbers compare.
"""

import re
from collections.abc import Iterator, Sequence

from v2l_jax.metrics.results import Result, Scalar, mean, proportion

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS_TAKEN = 32  # the code passes re.UNICODE, which is 32, where re.sub takes a count
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_NUMBERS = {"none": "0"} | {
    word: str(i)
    for i, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
_ARTICLES = frozenset({"a", "an", "the"})
_CONTRACTIONS = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]


def _without_one_apostrophe(word: str) -> Iterator[str]:
    yield from (word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'")


_COMPLETED = {
    spelling: word for word in _CONTRACTIONS for spelling in _without_one_apostrophe(word)
}
_COMPLETED["somebody'd"] = "somebodyd"  # the published table has this one the wrong way round


def normalize_answer(answer: str) -> str:
    """An answer as the published code compares it.

    Lower case; periods dropped unless a digit follows; other punctuation, but for apostrophe and
    colon, becomes a space, or nothing where it stands beside a space anywhere in the answer or
    where the answer holds a number such as 1,000; number words up to ten become digits ("none"
    becomes 0); articles go; a contraction gets the one apostrophe that it lacks.
    """
    answer = _one_line(answer)
    has_thousands = _DIGIT_COMMA_DIGIT.search(answer) is not None
    text = answer
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or has_thousands else " ")
    text = _PERIOD.sub("", text, count=_PERIODS_TAKEN)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_COMPLETED.get(word, word) for word in words if word not in _ARTICLES)


def consensus_accuracy(answer: str, people: Sequence[str]) -> float:
    """VQA accuracy of one answer (Antol et al. 2015, section 4): min(people who agree / 3, 1),
    averaged over all sets of people less one.

    As in the published code, nothing is normalised where all people gave one answer: then only that
    very text agrees.

    Args:
      answer: the model's.
      people: what each of (usually 10) people answered, at least one.

    Returns:
      A number in [0, 1].
    """
    people, answer = [_one_line(p) for p in people], _one_line(answer)
    if len(set(people)) > 1:
        people, answer = [normalize_answer(p) for p in people], normalize_answer(answer)
    agree = [person == answer for person in people]
    return sum(min((sum(agree) - own) / 3, 1.0) for own in agree) / len(people)


def is_exact_match(answer: str, truth: str) -> bool:
    """Whether an answer equals the only true one, both normalised; the accuracy of COCO-QA and
    easy-VQA.
    """
    return normalize_answer(answer) == normalize_answer(truth)


def vqa_accuracy(
    answers: Sequence[str], truths: Sequence[Sequence[str]], **measured_on: Scalar
) -> Result:
    """Accuracy over a set of questions.

    Args:
      answers: the model's.
      truths: for each question its only true answer, or the answers of several people.
      measured_on: for the row.

    Returns:
      Metric "vqa_accuracy" in [0, 1]: a proportion with the Wilson interval where every question
      has one true answer, else the mean of `consensus_accuracy` with Student's t interval.
    """
    if all(len(truth) == 1 for truth in truths):
        hits = sum(
            is_exact_match(answer, truth[0]) for answer, truth in zip(answers, truths, strict=True)
        )
        return proportion("vqa_accuracy", hits, len(answers), **measured_on)
    samples = [score_answer(answer, truth) for answer, truth in zip(answers, truths, strict=True)]
    return mean("vqa_accuracy", samples, **measured_on)


def score_answer(answer: str, truth: Sequence[str]) -> float:
    """One question's accuracy in [0, 1]: `is_exact_match` for a single truth, `consensus_accuracy`
    for several.
    """
    return (
        float(is_exact_match(answer, truth[0]))
        if len(truth) == 1
        else consensus_accuracy(answer, truth)
    )


def accuracy_by_type(
    answers: Sequence[str],
    truths: Sequence[Sequence[str]],
    types: Sequence[str],
    **measured_on: Scalar,
) -> list[Result]:
    """`vqa_accuracy` of the questions of each type, types in sorted order; rows carry
    `answer_type`.
    """
    groups = {
        name: [i for i, kind in enumerate(types) if kind == name] for name in sorted(set(types))
    }
    return [
        vqa_accuracy(
            [answers[i] for i in rows], [truths[i] for i in rows], **measured_on, answer_type=name
        )
        for name, rows in groups.items()
    ]


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()
