"""What a report is made of: plain data, no file names, no models."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from v2l_jax.metrics.results import Result
from v2l_jax.report.curves import Curves


@dataclasses.dataclass(frozen=True)
class PhotoRow:
    """One photo, the words it became, and the picture that came back from its tokens.

    original: RGB, 0..255, any size; the page shows its centre square, which is what the tokenizer
    sees. words: texts of its global tokens, nearest first. reconstruction: RGB, 0..255, decoded
    from the tokens; None before a tokenizer is trained. local_words: texts of its first few local
    tokens, in raster order. caption: what a reader should know, such as the class name; also the
    text alternative of the picture. credit: photographer or collection, and licence.
    """

    original: UInt8[np.ndarray, "height width 3"]
    words: Sequence[str]
    reconstruction: UInt8[np.ndarray, "decoded_height decoded_width 3"] | None = None
    local_words: Sequence[str] = ()
    caption: str = ""
    credit: str = ""


@dataclasses.dataclass(frozen=True)
class PromptExample:
    """A prompt exactly as the language model read it, its answer, and the right answer if known."""

    prompt: str
    answer: str
    expected: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table as it is read: the head, and rows whose first cell names the row. A cell may have a
    second line after a newline.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, RGB, 0..255, of any size, and what stands below it; a caption alone where `image`
    is None.
    """

    image: UInt8[np.ndarray, "height width 3"] | None
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Rows of pictures that belong together, such as a photo before and after."""

    caption: str
    rows: Sequence[Sequence[Picture]]


@dataclasses.dataclass(frozen=True)
class TaskSection:
    """A task's part of the page.

    name: the task, as in results.json; the section's address on the page.
    title: its heading.
    lead: what was asked and how to read the numbers, one paragraph.
    figures: SVG texts that are put in as they are, made by `report.plots` and the like.
    """

    name: str
    title: str
    lead: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[str] = ()
    galleries: Sequence[Gallery] = ()
    examples: Sequence[PromptExample] = ()


@dataclasses.dataclass(frozen=True)
class JobTiming:
    """A job of this run: wall-clock seconds, where it ran, and a remark such as "already done,
    skipped".
    """

    job: str
    seconds: float
    device: str = ""
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class AssetNote:
    """A downloaded file that the run used, where it came from, and its licence."""

    name: str
    source: str
    licence: str


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything on the page. What is empty or None is replaced by a sentence that says which job
    makes it.

    curves: name, such as "train/loss" or "eval/psnr"
    -> (steps, values); `curves_from_rows` makes it of metrics.jsonl. tower_kind: "clip" or "conse";
    a ConSE tower gets a note that it is not CLIP. to_beat: (ways, shots) -> accuracy in 0..1 that
    an earlier system reached; None leaves the column out. sections: one for each further task that
    was measured. environment: versions, devices, git commit, … in the order shown; values may be
    nested. skipped: (path, reason) of each file that could not be used; empty where all were fine,
    None where nobody counted. notes: further sentences for the end of the page. tokenizer_road:
    False where no tokenizer over words is trained: what only such a run has is left out where it is
    empty.
    """

    title: str = "Photos a language model can read"
    results: Sequence[Result] = ()
    photos: Sequence[PhotoRow] = ()
    curves: Curves = dataclasses.field(default_factory=dict)
    prompt_example: PromptExample | None = None
    sections: Sequence[TaskSection] = ()
    timings: Sequence[JobTiming] = ()
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    assets: Sequence[AssetNote] = ()
    skipped: Sequence[tuple[str, str]] | None = None
    tower_kind: str = ""
    to_beat: Mapping[tuple[int, int], float] | None = None
    notes: Sequence[str] = ()
    tokenizer_road: bool = True
