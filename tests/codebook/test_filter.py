"""Stage 3: which words stay."""

import numpy as np

from v2l_jax.codebook.filter import count_hits, first_spellings, keep_frequent


def test_counts_equal_brute_force():
    rng = np.random.default_rng(0)
    images, words = (
        rng.normal(size=(37, 12)).astype(np.float32),
        rng.normal(size=(50, 12)).astype(np.float32),
    )
    expected = np.zeros(50, int)
    for image in images:
        for word in sorted(
            range(50), key=lambda w: -float(images.dtype.type(np.dot(words[w], image)))
        )[:5]:
            expected[word] += 1
    for batch_size in (8, 37, 64):
        np.testing.assert_array_equal(count_hits(images, words, 5, batch_size), expected)
    assert count_hits(images, words[:3], 5).tolist() == [37, 37, 37]


def test_threshold():
    counts = np.array([0, 1, 2, 101, 100])
    assert keep_frequent(counts).tolist() == [1, 2, 3, 4]
    assert keep_frequent(counts, 101).tolist() == [3]


def test_spellings_are_merged_to_the_first():
    texts = [
        " Dog",
        "cat",
        " dog",
        "DOG",
        " dogs, a",
        "...",
        "!",
        " ...",
        "ice cream\n",
        "the Ice Creams",
        " glass",
        " glas",
        " of",
    ]
    assert [texts[i] for i in first_spellings(texts)] == [
        " Dog",
        "cat",
        "...",
        "!",
        "ice cream\n",
        " glass",
        " glas",
        " of",
    ]
