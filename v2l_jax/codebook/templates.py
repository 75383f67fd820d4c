"""The 80 ImageNet prompt templates of CLIP (Radford et al. 2021), as combinations of their
parts.
"""

_BOTH_ARTICLES = (
    "a bad photo of {article} {{}}.",
    "a sculpture of {article} {{}}.",
    "a low resolution photo of {article} {{}}.",
    "a rendering of {article} {{}}.",
    "graffiti of {article} {{}}.",
    "a cropped photo of {article} {{}}.",
    "a tattoo of {article} {{}}.",
    "{article} embroidered {{}}.",
    "a bright photo of {article} {{}}.",
    "a dark photo of {article} {{}}.",
    "a drawing of {article} {{}}.",
    "{article} plastic {{}}.",
    "a close-up photo of {article} {{}}.",
    "a black and white photo of {article} {{}}.",
    "a painting of {article} {{}}.",
    "a pixelated photo of {article} {{}}.",
    "a jpeg corrupted photo of {article} {{}}.",
    "a blurry photo of {article} {{}}.",
    "a photo of {article} {{}}.",
    "a good photo of {article} {{}}.",
    "{article} {{}} in a video game.",
    "a doodle of {article} {{}}.",
    "{article} origami {{}}.",
    "a sketch of {article} {{}}.",
    "{article} toy {{}}.",
    "a rendition of {article} {{}}.",
    "{article} cartoon {{}}.",
    "art of {article} {{}}.",
    "itap of {article} {{}}.",
    "{article} plushie {{}}.",
)
_ADJECTIVES = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")

IMAGENET_TEMPLATES: tuple[str, ...] = (
    *(pattern.format(article=article) for pattern in _BOTH_ARTICLES for article in ("a", "the")),
    *(
        f"a photo of {article} {adjective} {{}}."
        for adjective in _ADJECTIVES
        for article in ("a", "the")
    ),
    "a photo of many {}.",
    "a photo of my {}.",
    "a photo of one {}.",
    "itap of my {}.",
)
