"""Examples that a task keeps for the report: images with what was asked and answered, and a
prompt.
"""

import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from v2l_jax.atomic_write import atomic_write
from v2l_jax.data.images import decode_image
from v2l_jax.report.data import Gallery, Picture, PromptExample
from v2l_jax.representations.base import Segments, shown_text
from v2l_jax.run.run import Run
from v2l_jax.run.workdir import read_json, write_json
from v2l_jax.tasks.harness.prompts import Prompt

_SIDE = 320


def folder_of(run: Run, task: str, dataset: str) -> pathlib.Path:
    """Images and examples of this language model and data set."""
    return run.folder(task) / re.sub(r"[^\w.]+", "-", f"{run.config.llm} {dataset}")


def words_of(run: Run, image: Segments) -> list[str]:
    """An image's segments, one by one, as a reader sees them."""
    decode = run.llm.tokenizer.decode
    return [shown_text((segment,), decode).strip() for segment in image]


def prompt_example(run: Run, prompt: Prompt, answer: str, expected: str) -> dict[str, str]:
    """A prompt exactly as it was asked, its answer, and the right one."""
    text = shown_text(prompt, run.llm.tokenizer.decode)
    return {"prompt": text, "answer": answer, "expected": expected}


def keep_examples(
    folder: pathlib.Path,
    name: str,
    paths: Sequence[str],
    examples: Sequence[Mapping[str, Any]],
    prompt: Mapping[str, str],
) -> None:
    """Writes small copies of images as 0.png, 1.png, …, and `name`.json with what is said of them.

    Args:
      folder: made if it is not there.
      name: of the JSON file.
      paths: image files.
      examples: what is said of each.
      prompt: of `prompt_example`.
    """
    for i, path in enumerate(paths):
        picture = Image.fromarray(decode_image(path))
        picture.thumbnail((_SIDE, _SIDE))
        with atomic_write(folder / f"{i}.png") as draft:
            picture.save(draft, format="PNG")
    write_json(folder / f"{name}.json", {"examples": list(examples), "prompt": prompt})


def kept_examples(
    folder: pathlib.Path, name: str, title: str, caption: Callable[[Mapping[str, Any]], str]
) -> tuple[Gallery, PromptExample] | None:
    """What `keep_examples` kept, for the page; None where there is nothing.

    Args:
      folder, name: as for `keep_examples`.
      title: of the gallery.
      caption: what stands below an image, by what was kept of it.
    """
    kept = read_json(folder / f"{name}.json", None)
    if not kept:
        return None
    pictures = [
        Picture(decode_image(folder / f"{i}.png"), caption(example))
        for i, example in enumerate(kept["examples"])
    ]
    return Gallery(title, [pictures]), PromptExample(**kept["prompt"])
