"""The page: complete, self-contained, safe against its own data, the same for the same data."""

import dataclasses
import html.parser
import re

import numpy as np
import pytest

from v2l_jax.metrics.results import Result
from v2l_jax.report.data import (
    AssetNote,
    Gallery,
    JobTiming,
    PhotoRow,
    Picture,
    PromptExample,
    ReportData,
    Table,
    TaskSection,
)
from v2l_jax.report.page import render_page

HOSTILE = "<script>alert('x')</script>\"'&\u202e\x07\ud800"
_VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Parses a page strictly: every element closed in order. Keeps elements, texts of sections and
    table cells.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.cells, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if "td" in self.open or ("th" in self.open and "table" in self.open):
            self.cells[-1][-1] += data

    def rows(self):
        return [[" ".join(cell.split()) for cell in row] for row in self.cells]

    def words(self):
        return " ".join(self.text.split())


def _few_shot(ways, shots, value, control):
    on = {
        "ways": ways, "shots": shots, "control": control, "tokens": 5, "llm": "SmolLM2",
        "tower": "EfficientNet + MiniLM",
    }  # fmt: skip
    return Result("few_shot_accuracy", value, 200, (value - 0.05, value + 0.05), on)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    photo = PhotoRow(
        rng.integers(0, 256, (150, 200, 3), dtype=np.uint8),
        (" dog", HOSTILE, "שלום"),
        rng.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        ("\n", HOSTILE),
        caption=f"dog {HOSTILE}",
        credit=HOSTILE,
    )
    results = [_few_shot(w, s, 0.6 + s / 100 + w / 1000, "none") for w in (2, 5) for s in (1, 3, 5)]
    results += [_few_shot(w, s, 1 / w, "shuffled") for w in (2, 5) for s in (1, 3, 5)]
    results += [
        Result("psnr", 19.4161, 120, (19.1, 19.7), {"dataset": HOSTILE}),
        Result("vqa_accuracy", 0.314, 50, None, {"task": "vqa"}),
        Result("lpips", 0.2, 9, None, {"task": "denoising"}),
    ]
    section = TaskSection(
        "vqa",
        f"Questions {HOSTILE}",
        HOSTILE,
        tables=[
            Table(
                f"Accuracy {HOSTILE}",
                ("Set", HOSTILE),
                [("COCO-QA\n50 questions", "31.4 %\n19.5–46.1")],
            )
        ],
        figures=['<svg role="img" aria-label="a ring"></svg>'],
        galleries=[
            Gallery(
                "Asked", [[Picture(photo.original, HOSTILE), Picture(None, "What is it?\na dog")]]
            )
        ],
        examples=[PromptExample(f"Question: {HOSTILE}", " dog", "dog")],
    )
    return ReportData(
        sections=[section],
        results=results,
        photos=[photo, photo],
        curves={
            "train/loss": ([0, 10], [0.9, 0.5]),
            "eval/psnr": ([0, 10], [8.0, 19.0]),
            f"train/{HOSTILE}": ([0], [1.0]),
        },
        prompt_example=PromptExample(f"###\nInput: < {HOSTILE} >\nOutput:", " dog", "dog"),
        timings=[JobTiming("train", 301.0, HOSTILE), JobTiming("evaluate", 3.25)],
        environment={"git_commit": "1e69123", "packages": {"jax": "0.10.2"}, "odd": HOSTILE},
        assets=[AssetNote("smollm2", HOSTILE, "Apache-2.0")],
        skipped=[(f"cat/{HOSTILE}.jpg", "truncated")],
        tower_kind="conse",
        to_beat={(5, 1): 0.63},
        notes=[HOSTILE],
    )


@pytest.fixture(scope="module")
def page(data):
    return Page(render_page(data))


def test_same_data_same_bytes(data):
    assert render_page(data).encode() == render_page(data).encode()


def test_loads_nothing_and_runs_nothing(data, page):
    for tag, attributes in page.elements:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            if attributes.get(name) is not None:
                assert attributes[name].startswith(("data:", "#")), attributes[name]
    assert not re.findall(r"@import|url\((?!#)", render_page(data))


def test_links_inside_the_page_arrive_and_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a.get("href", a.get("xlink:href", "")) for _, a in page.elements]
    assert {target[1:] for target in targets if target.startswith("#")} <= set(ids)


def test_hostile_text_is_shown_not_obeyed(data, page):
    text = render_page(data)
    assert "<script" not in text and "\u202e" not in text and "\x07" not in text
    assert "<script>alert('x')</script>\"'&[U+202E][U+0007][U+D800]" in page.text


def test_accessible(page):
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 5 and all(image["alt"] for image in images)
    assert all(
        a.get("role") == "img" and a["aria-label"] for tag, a in page.elements if tag == "svg"
    )
    assert all("scope" in attributes for tag, attributes in page.elements if tag == "th")
    assert ("html", {"lang": "en"}) in page.elements
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(
        after - before <= 1 for before, after in zip(levels, levels[1:], strict=False)
    )


def test_accuracy_table_holds_the_results(page):
    head = ["Ways", "Shots", "Accuracy", "Words shuffled", "Chance", "To beat", "Trials"]
    assert head in page.rows()
    assert ["5-way", "1", "61.5 % 56.5–66.5", "20.0 % 15.0–25.0", "20.0 %", "63.0 %", "200"] in (
        page.rows()
    )
    assert ["2-way", "5", "65.2 % 60.2–70.2", "50.0 % 45.0–55.0", "50.0 %", "–", "200"] in (
        page.rows()
    )


def test_a_control_may_be_missing_at_some_shots(data):
    left_out = [(2, "shuffled"), (5, "shuffled")]
    kept = [
        result
        for result in data.results
        if (result.measured_on.get("ways"), result.measured_on.get("control")) not in left_out
        or result.measured_on["shots"] != 5
    ]
    rows = Page(render_page(dataclasses.replace(data, results=kept))).rows()
    assert ["2-way", "5", "65.2 % 60.2–70.2", "–", "50.0 %", "–", "200"] in rows


def test_reconstruction_table_and_times(page):
    assert ["PSNR higher is closer, pixel by pixel", "19.42 dB 19.10–19.70", "120"] in page.rows()
    assert ["evaluate", "3.2 s", "", ""] in page.rows() and [
        "Together",
        "5 min 04 s",
        "",
        "",
    ] in page.rows()


def test_summary_quotes_number_interval_and_chance(page):
    words = page.words()
    assert (
        "After one example of each of five classes it named a new photo correctly in "
        "61.5 % of 200 trials" in words
    )
    assert "(95 % interval 56.5–66.5 %); guessing gets 20 %." in words
    assert "With the words shuffled among the photos it gets 20.0 %, which is chance" in words
    assert "ConSE, not CLIP" in words


def test_summary_does_not_claim_what_the_interval_forbids(data):
    weak = [_few_shot(5, 1, 0.22, "none"), _few_shot(5, 1, 0.4, "shuffled")]
    words = Page(render_page(dataclasses.replace(data, results=weak))).words()
    assert "does not show that the model can name photos" in words
    assert "look for a leak" in words


def test_a_task_has_its_own_section_and_its_rows_are_nowhere_else(page):
    assert ["COCO-QA 50 questions", "31.4 % 19.5–46.1"] in page.rows()
    assert ("a", {"href": "#vqa"}) in page.elements and (
        "section",
        {"id": "vqa", "aria-labelledby": "vqa-title"},
    ) in page.elements
    assert ("svg", {"role": "img", "aria-label": "a ring"}) in page.elements
    words = page.words()
    assert "What is it? a dog" in words and "Vqa accuracy" not in words
    lpips = [row for row in page.rows() if row[0].startswith("LPIPS")]
    assert [row[1] for row in lpips] == ["0.2"]  # without a section it is among the other numbers


def test_clip_gets_no_conse_note(data):
    assert "ConSE" not in render_page(dataclasses.replace(data, tower_kind="clip"))


def test_prompt_is_whole(data, page):
    assert "Input: < <script>alert('x')</script>" in page.text
    assert "so it is right" in page.words()
    wrong = dataclasses.replace(data, prompt_example=PromptExample("Output:", " cat", "dog"))
    assert "so it is wrong" in Page(render_page(wrong)).words()


def test_empty_report_names_the_jobs_that_fill_it():
    words = Page(render_page(ReportData())).words()
    for missing, job in (
        ("photos with their words", "tokenize"),
        ("accuracy", "evaluate"),
        ("reconstruction numbers", "evaluate"),
        ("training curves", "train"),
        ("example prompt", "evaluate"),
    ):
        assert f"No {missing} yet: the {job} job makes this section." in words
    assert "No times yet" in words and "is not known yet" in words


def test_photo_without_reconstruction_and_nothing_skipped(data):
    photo = dataclasses.replace(data.photos[0], reconstruction=None, local_words=())
    words = Page(render_page(dataclasses.replace(data, photos=[photo], skipped=[]))).words()
    assert (
        "No reconstruction yet: the train job" in words
        and "None: every photo could be read." in words
    )
