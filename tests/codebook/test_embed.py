"""Stage 2: template averages."""

import numpy as np

from v2l_jax.codebook.embed import embed_texts
from v2l_jax.codebook.templates import IMAGENET_TEMPLATES


def encode(texts):
    """A stand-in text tower: a unit vector that depends on every character of the text."""
    rows = [np.bincount([ord(c) % 16 for c in text], minlength=16) for text in texts]
    vectors = np.stack(rows).astype(np.float32) + 0.1
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_mean_over_templates_is_not_normalised_again():
    texts, templates = [" dog", "cat", "pizza\n"], ("{}", "a photo of a {}.", "art of {}")
    expected = np.stack(
        [
            np.mean([encode([t.format(text.strip())])[0] for t in templates], axis=0)
            for text in texts
        ]
    )
    np.testing.assert_allclose(embed_texts(encode, texts, templates), expected, atol=1e-6)
    np.testing.assert_allclose(embed_texts(encode, texts, templates, chunk=2), expected, atol=1e-6)
    assert (np.linalg.norm(expected, axis=1) < 0.9999).all()


def test_equal_prompts_are_encoded_once():
    seen = []

    def counting(texts):
        seen.extend(texts)
        return encode(texts)

    rows = embed_texts(counting, [" dog", "dog", "dog "], ("a {}",))
    assert seen == ["a dog"]
    np.testing.assert_array_equal(rows[0], rows[2])


def test_the_80_templates_of_clip():
    assert len(IMAGENET_TEMPLATES) == len(set(IMAGENET_TEMPLATES)) == 80
    assert all(template.count("{}") == 1 for template in IMAGENET_TEMPLATES)
    for known in (
        "a bad photo of a {}.",
        "itap of my {}.",
        "the {} in a video game.",
        "a photo of the hard to see {}.",
    ):
        assert known in IMAGENET_TEMPLATES
