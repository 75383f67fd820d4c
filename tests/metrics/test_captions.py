"""Caption metrics against published examples, hand-computed values, the definitions, and COCO's own
tokenizer.
"""

import math
import shutil
from collections import Counter

import numpy as np
import pytest

from v2l_jax.errors import DataError
from v2l_jax.metrics.captions import (
    bleu_4,
    bootstrap_interval,
    caption_results,
    has_words,
    score_captions,
    tokenize,
)

# What Stanford's PTBTokenizer 3.4.1 makes of them, as COCO calls it.
TOKENIZED = {
    "A frog.": "a frog",
    "A man's dog can't find the ball.": "a man 's dog ca n't find the ball",
    "two ice-creams, one half-eaten (vanilla & "
    "chocolate)": "two ice-creams one half-eaten -lrb- vanilla & chocolate -rrb-",
    "The colour is grey.": "the colour is grey",
    'A u.s. flag and/or a sign that says "stop!"': "a u.s. flag and/or a sign that says stop",
    "it's 5:30 p.m. on St. Mary's clock": "it 's 5:30 p.m. on st. mary 's clock",
    "They're we'll I'd I'm you've don't won't cannot "
    "gonna": "they 're we 'll i 'd i 'm you 've do n't wo n't can not gon na",
    "A $5.00 bill; 50% off": "a $ 5.00 bill 50 % off",
    "a black-and-white photo of 3 men...": "a black-and-white photo of 3 men",
    "dogs' toys - the boys' room": "dogs toys the boys room",
    "Mr. Smith's T-shirt #12 @ home": "mr. smith 's t-shirt # 12 @ home",
    "a 1/2 eaten pizza": "a 1/2 eaten pizza",
    "An elephant. A dog! A cat?": "an elephant a dog a cat",
    "rock 'n' roll": "rock 'n' roll",
    "the 1980's car": "the 1980 's car",
    "a cell phone/camera on a table*": "a cell phone/camera on a table *",
    " A  woman   riding a wave. ": "a woman riding a wave",
    "Café naïve": "café naïve",
    "no. 5": "no. 5",
    "a -- b": "a b",
    "it’s a “quoted” dog’s life": "it 's a quoted dog 's life",
    "Tux—the Linux mascot!": "tux the linux mascot",
    "Boom!!!": "boom !!!",
    "A Canadian 1 cent piece ($.01) called a "
    "penny.": "a canadian 1 cent piece -lrb- $ .01 -rrb- called a penny",
    "A European coin (0.01 €).": "a european coin -lrb- 0.01 $ -rrb-",
    "< cat > and a dog": "< cat > and a dog",
    "## snake_case [cat] {a} ~ ^ | \\ /": "## snake_case -lsb- cat -rsb- -lcb- a -rcb- ~ ^ | \\ /",
    "A calculator.  6x7=42": "a calculator 6x7 = 42",
    "5 o'clock, ma'am": "5 o'clock ma'am",
    "100,000 people on 5th Ave. near Mt. Fuji": "100,000 people on 5th ave. near mt. fuji",
    "": "",
}
REFERENCES = [
    ["a brown dog runs on the green grass", "A dog running over a lawn."],
    ["two people ride a wave", "Surfers on one big wave in the sea."],
    ["a plate of food with a slice of pizza"],
    ["a dog sleeps beside two cats on the sofa", "Cats and a dog are asleep."],
]
CAPTIONS = [
    "a dog runs on grass",
    "a man on a big wave in the ocean",
    "a slice of pizza on a plate of food",
    "a dog",
]


@pytest.mark.parametrize("text", TOKENIZED, ids=repr)
def test_words_are_those_that_cocos_tokenizer_made(text):
    assert tokenize(text) == TOKENIZED[text]


@pytest.mark.skipif(
    shutil.which("java") is None, reason="there is no java to run COCO's tokenizer with"
)
def test_the_table_is_what_cocos_tokenizer_makes_now():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = [text for text in TOKENIZED if text]
    made = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    assert {text: made[i][0] for i, text in enumerate(texts)} == {
        text: TOKENIZED[text] for text in texts
    }


def test_bleu_clips_repeated_words_as_in_its_paper():
    """Papineni et al. 2002, example 2: modified unigram precision 2/7."""
    counts = score_captions(
        ["the " * 7], [["The cat is on the mat.", "There is a cat on the mat."]]
    ).bleu_counts
    assert counts[0].tolist() == [2, 0, 0, 0, 7, 6, 5, 4, 7, 7]


@pytest.mark.parametrize(
    ("caption", "reference", "expected"),
    [
        ("a b c d e", "a b c d f", (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ("a b c d", "a b c d e", math.exp(1 - 5 / 4)),
        ("a b c d e f", "a b c d e f", 1.0),
        ("a b c d e f g", "a b c d", (4 / 7 * 3 / 6 * 2 / 5 * 1 / 4) ** 0.25),
        ("x y z w", "a b c d", 0.0),
    ],
)
def test_bleu_by_hand(caption, reference, expected):
    assert bleu_4(score_captions([caption], [[reference]]).bleu_counts[0]) == pytest.approx(
        expected, abs=1e-6
    )


def test_corpus_bleu_equals_the_librarys():
    from pycocoevalcap.bleu.bleu import Bleu

    counts = score_captions(CAPTIONS, REFERENCES).bleu_counts
    truths = {i: [tokenize(text) for text in texts] for i, texts in enumerate(REFERENCES)}
    expected, single = Bleu(4).compute_score(
        truths, {i: [tokenize(text)] for i, text in enumerate(CAPTIONS)}, verbose=0
    )
    assert 0.05 < expected[3] < 0.9
    assert bleu_4(counts.sum(axis=0)) == pytest.approx(expected[3], rel=1e-6)
    np.testing.assert_allclose(bleu_4(counts), single[3], rtol=1e-6)


@pytest.mark.parametrize(
    ("caption", "references", "expected"),
    [
        ("police kill the gunman", ["police killed the gunman"], 0.75),  # Lin 2004, section 3.1
        ("a b c", ["a x b y c z"], 2.44 * 0.5 / (0.5 + 1.44)),  # precision 1, recall 1/2, beta 1.2
        (
            "a b c",
            ["c b a", "a b"],
            2.44 * 2 / 3 / (1 + 1.44 * 2 / 3),
        ),  # the best precision, the best recall
        ("the gunman kill police", ["police killed the gunman"], 0.5),
        ("", ["a dog"], 0.0),
    ],
)
def test_rouge_l_by_hand(caption, references, expected):
    assert score_captions([caption], [references]).rouge_l[0] == pytest.approx(expected, abs=1e-9)


def cider_d(captions, references):
    """CIDEr-D from its definition (Vedantam et al. 2015, equations 1 to 4, sigma 6, counts
    clipped).
    """

    def ngrams(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for caption, own in zip(captions, references, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            frequency = Counter(
                g for texts in references for g in {g for text in texts for g in ngrams(text, n)}
            )
            weigh = lambda text: {
                g: c * math.log(len(references) / max(1, frequency[g]))
                for g, c in ngrams(text, n).items()
            }
            length = lambda vector: math.sqrt(sum(v * v for v in vector.values()))
            for reference in own:
                a, b = weigh(caption), weigh(reference)
                product = sum(min(v, b[g]) * b[g] for g, v in a.items() if g in b)
                gap = len(caption.split()) - len(reference.split())
                if product:
                    total += product / length(a) / length(b) * math.exp(-gap * gap / 72) / len(own)
        scores.append(10 * total / 4)
    return scores


def test_cider_equals_its_definition():
    expected = cider_d(
        [tokenize(c) for c in CAPTIONS], [[tokenize(r) for r in texts] for texts in REFERENCES]
    )
    assert min(expected[:3]) > 0.1 and max(expected) < 9
    np.testing.assert_allclose(score_captions(CAPTIONS, REFERENCES).cider, expected, rtol=1e-9)


def test_a_reference_itself_scores_full_marks():
    scores = score_captions([texts[0] for texts in REFERENCES], [texts[:1] for texts in REFERENCES])
    np.testing.assert_allclose(scores.cider, 10, rtol=1e-9)
    np.testing.assert_allclose(scores.rouge_l, 1, rtol=1e-9)
    assert bleu_4(scores.bleu_counts.sum(axis=0)) == pytest.approx(1, abs=1e-6)


def test_bootstrap_interval_of_bleu():
    counts = score_captions(CAPTIONS * 10, REFERENCES * 10).bleu_counts
    low, high = bootstrap_interval(counts, bleu_4, seed=1)
    assert low < bleu_4(counts.sum(axis=0)) < high
    assert (
        bootstrap_interval(counts, bleu_4, seed=1)
        == (low, high)
        != bootstrap_interval(counts, bleu_4, seed=2)
    )
    wide = bootstrap_interval(counts[:8], bleu_4, seed=1)
    assert high - low < wide[1] - wide[0]
    same = bootstrap_interval(np.repeat(counts[2:3], 5, axis=0), bleu_4)
    assert same == pytest.approx((float(bleu_4(counts[2])),) * 2, rel=1e-6) and same[0] > 0.1
    assert bootstrap_interval(counts[:1], bleu_4) is None


def test_bootstrap_interval_of_a_mean_is_the_normal_one_on_many_samples():
    values = np.random.default_rng(0).exponential(size=(4000, 1))
    interval = bootstrap_interval(values, lambda sums: sums[:, 0] / 4000)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_interval_of_cider_stays_above_zero():
    cider = caption_results(
        score_captions(
            ["a dog runs", *["x"] * 20], [["a dog runs"], *([f"y{i}"] for i in range(20))]
        )
    )[0]
    assert cider.value > 0.1 and cider.ci95[0] == 0


def test_results_carry_counts_and_intervals():
    rows = {
        row.metric: row
        for row in caption_results(score_captions(CAPTIONS, REFERENCES), control="none")
    }
    assert list(rows) == ["cider", "bleu_4", "rouge_l"]
    scores = score_captions(CAPTIONS, REFERENCES)
    assert rows["cider"].value == pytest.approx(scores.cider.mean())
    for row in rows.values():
        assert (
            row.count == 4
            and row.ci95[0] <= row.value <= row.ci95[1]
            and row.measured_on == {"control": "none"}
        )


def test_one_image_has_no_cider():
    assert math.isnan(score_captions(["a dog"], [["a dog"]]).cider[0])


def test_what_cannot_be_scored_is_named():
    with pytest.raises(DataError, match="no captions"):
        score_captions([], [])
    with pytest.raises(DataError, match="image 1 holds no word"):
        score_captions(["a", "b"], [["a"], ["?."]])
    with pytest.raises(DataError, match="image 0 holds no word"):
        score_captions(["a"], [[]])


def test_references_without_a_word_count_as_empty_ones_as_in_cocos_evaluation():
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    captions = ["a black dog runs", "two cats on a mat"]
    references = [["a black dog runs", "."], ["\U0001f431", "two cats on a rug"]]
    scores = score_captions(captions, references)
    truths = {0: ["a black dog runs", ""], 1: ["", "two cats on a rug"]}
    guesses = {i: [caption] for i, caption in enumerate(captions)}
    np.testing.assert_allclose(scores.cider, Cider().compute_score(truths, guesses)[1])
    np.testing.assert_allclose(scores.rouge_l, Rouge().compute_score(truths, guesses)[1])


def test_images_none_of_whose_references_has_a_word_are_told_apart():
    assert has_words([".", "a dog"]) and not has_words([".", "\U0001f431", ""])
