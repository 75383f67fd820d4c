"""Stage 2 of the codebook: the text tower's vector of each word, averaged over prompt templates
(Zhu et al. 2024, section 3.2).
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

EncodeTexts = Callable[[Sequence[str]], Float[np.ndarray, "texts dim"]]


def embed_texts(
    encode_texts: EncodeTexts, texts: Sequence[str], templates: Sequence[str], chunk: int = 16384
) -> Float[np.ndarray, "texts dim"]:
    """Mean over templates of the texts' unit vectors. As in the published code, the mean is not
    normalised again. Equal prompts are encoded once.

    Args:
      encode_texts: a tower's text side; returns L2-normalised float32 rows.
      texts: words as decoded; surrounding white space is dropped inside a template.
      templates: format strings with one `{}`.
      chunk: texts encoded at once, to bound host memory at `chunk · len(templates)` rows.

    Returns:
      float32 rows of length at most 1.
    """
    rows = []
    for start in range(0, len(texts), chunk):
        prompts = [
            [template.format(text.strip()) for template in templates]
            for text in texts[start : start + chunk]
        ]
        unique = list(dict.fromkeys(prompt for group in prompts for prompt in group))
        row_of = {prompt: row for row, prompt in enumerate(unique)}
        vectors = encode_texts(unique)
        order = np.asarray([[row_of[prompt] for prompt in group] for group in prompts])
        rows.append(np.mean([vectors[column] for column in order.T], axis=0, dtype=np.float32))
    return np.concatenate(rows).astype(np.float32)
