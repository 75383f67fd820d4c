"""The manual's links lead somewhere, and its commands name files, modules and targets that exist.

CHANGELOG.md is left out: it also names what is gone.
"""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted({*_ROOT.glob("*.md"), *_ROOT.glob("docs/*.md")} - {_ROOT / "CHANGELOG.md"})
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
# Files and folders of the repository, wherever they are named; <task> and … stand for others.
_PATH = re.compile(
    r"(?<![\w/.\-:])((?:configs|launch|benchmarks|colabs|docs|tests|v2l_jax)/[\w./\-]*[\w/])"
)
# Files that CONTRIBUTING.md shows how to write.
_EXAMPLES = {"v2l_jax/tokenizers/nearest_colour.py"}
_MODULE = re.compile(r"python -m ((?:v2l_jax|launch|benchmarks)[\w.]*)")
_TARGET = re.compile(r"(?:`|^|&& )make ([a-z][a-z\-]*)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(_ROOT).as_posix())
class TestPage:
    def test_links(self, page):
        links = [link for link in _LINK.findall(_text(page)) if "://" not in link]

        assert [link for link in links if not _leads_somewhere(page, link)] == []

    def test_paths(self, page):
        found = set(_PATH.findall(page.read_text(encoding="utf-8"))) - _EXAMPLES

        assert sorted(path for path in found if not (_ROOT / path).exists()) == []

    def test_modules(self, page):
        found = set(_MODULE.findall(page.read_text(encoding="utf-8")))
        files = {module: _ROOT.joinpath(*module.split(".")).with_suffix(".py") for module in found}

        assert sorted(module for module, file in files.items() if not file.exists()) == []

    def test_make_targets(self, page):
        makefile = (_ROOT / "Makefile").read_text(encoding="utf-8")
        known = set(re.findall(r"^([a-z\-]+):", makefile, re.MULTILINE))

        assert set(_TARGET.findall(page.read_text(encoding="utf-8"))) - known == set()


@pytest.mark.parametrize(
    "link, expected",
    [
        ("quickstart.md", True),
        ("../README.md", True),
        ("RESULTS.md#which-words-to-show", True),
        ("RESULTS.md#no-such-table", False),
        ("no_such_page.md", False),
    ],
)
def test_a_link_that_leads_nowhere_is_found(link, expected):
    assert _leads_somewhere(_ROOT / "docs" / "tasks.md", link) is expected


def _leads_somewhere(page: pathlib.Path, link: str) -> bool:
    """Whether a relative link names a file, and a heading of it where it has an anchor."""
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(page: pathlib.Path) -> set[str]:
    """The headings of a page as links name them: lower case, hyphens, no punctuation."""
    headings = re.findall(r"^#+ (.+)$", _text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _text(page: pathlib.Path) -> str:
    """A page without its code, in which brackets and # mean other things."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))
