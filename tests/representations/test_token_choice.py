"""Words are picked as the definitions say, beside plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from v2l_jax.ops.nearest import nearest_rows
from v2l_jax.representations.token_choice import TokenChoice, choose_words

FORMS = [" {}", "{}", " {}s", "{},", " A {} of", "{}\n"]


@pytest.fixture(scope="module")
def space():
    """Unit image vectors, words of other lengths, and texts of which six in a row are forms of
    one.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((37, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = (0.3 * rng.standard_normal((120, 16))).astype(np.float32)
    texts = tuple(FORMS[i % 6].format(f"{chr(97 + i // 6)}ton") for i in range(120))
    return vectors, embeddings, texts


def brute_force(vector, embeddings, lemmas, choice):
    """Carbonell & Goldstein's definition, word by word, in float64."""
    similarity = lambda a, b: 1 - 0.5 * np.sum((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    chosen: list[int] = []
    for _ in range(choice.tokens):
        scores = {}
        for i in range(len(embeddings)):
            if i in chosen or (choice.merge and lemmas[i] in {lemmas[j] for j in chosen}):
                continue
            redundancy = max(
                (similarity(embeddings[i], embeddings[j]) for j in chosen), default=0.0
            )
            scores[i] = (
                choice.mmr * similarity(vector, embeddings[i]) - (1 - choice.mmr) * redundancy
                if chosen
                else similarity(vector, embeddings[i])
            )
        if not scores:
            break
        best = max(scores, key=scores.__getitem__)
        if (
            choice.adaptive
            and chosen
            and similarity(vector, embeddings[best])
            < choice.adaptive * similarity(vector, embeddings[chosen[0]])
        ):
            break
        chosen.append(best)
    return chosen


@pytest.mark.parametrize(
    "choice",
    [
        TokenChoice(7, mmr=0.5),
        TokenChoice(7, mmr=0.0),
        TokenChoice(7, merge=True, mmr=0.7),
        TokenChoice(7, merge=True, adaptive=0.8),
        TokenChoice(7, mmr=0.6, adaptive=0.5),
        TokenChoice(30, merge=True),
    ],
    ids=str,
)
def test_words_are_those_of_the_definition(space, choice):
    vectors, embeddings, texts = space
    lemmas = [
        text.lower().strip(" ,\n").removeprefix("a ").removesuffix(" of").removesuffix("s")
        for text in texts
    ]
    expected = [
        tuple(texts[i] for i in brute_force(v, embeddings, lemmas, choice)) for v in vectors
    ]
    assert choose_words(vectors, embeddings, texts, choice, batch_size=16) == expected
    if choice.adaptive:
        assert {len(words) for words in expected} > {1}
    if choice.tokens == 30:
        assert {len(words) for words in expected} == {20}  # lemmas there are


def test_the_default_is_the_papers_way(space):
    vectors, embeddings, texts = space
    nearest = np.asarray(nearest_rows(jnp.asarray(vectors), jnp.asarray(embeddings), 21))
    assert choose_words(vectors, embeddings, texts, TokenChoice(21)) == [
        tuple(texts[i] for i in row) for row in nearest
    ]
    distances = np.linalg.norm(vectors[:, None] - embeddings, axis=-1)
    np.testing.assert_array_equal(nearest, np.argsort(distances, axis=1)[:, :21])


def test_an_image_gets_its_words_whatever_is_beside_it(space):
    vectors, embeddings, texts = space
    choice = TokenChoice(5, merge=True, mmr=0.7)
    assert (
        choose_words(vectors[5:9], embeddings, texts, choice, 3)
        == choose_words(vectors, embeddings, texts, choice)[5:9]
    )
