"""How a bundle's stages are run, with stages that are a line of Python each."""

import json
import os
import subprocess
import sys
import time

import pytest

from launch import stages
from launch.stages import Place, Stage


def stage(name, code, seconds=20, rows=lambda place: []):
    """A stage of one process that runs `code`."""
    return Stage(name, "a test", seconds, (), lambda place: [[sys.executable, "-c", code]], rows)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path, tiny=True)


def table(place):
    return (place.results / "table.md").read_text()


def test_a_stage_that_hangs_or_fails_does_not_end_the_others(place, capsys):
    """The one that hangs is stopped at its limit with the process that it began."""
    left = place.folder / "left"
    hangs = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(left)!r}, 'w').write(str(p.pid))\n"
        "print('| before | 1 |', flush=True); time.sleep(60)"
    )
    began = time.monotonic()
    stages.run(
        [
            stage("hangs", hangs, seconds=0.5),
            stage("fails", "raise SystemExit(3)"),
            stage("works", "print('| after | 2 |')"),
        ],
        place,
        budget=60,
    )
    assert time.monotonic() - began < 30
    shown = table(place)
    assert capsys.readouterr().out == shown
    assert "| before | 1 |" in shown and "| after | 2 |" in shown
    assert "hangs was stopped at its limit of 2 s" in shown
    assert "fails failed (exit code 3; results/fails.log)" in shown
    with pytest.raises(ProcessLookupError):
        for _ in range(50):  # until its new parent has taken note of its end
            os.kill(int(left.read_text()), 0)
            time.sleep(0.1)


def test_a_line_is_shown_as_soon_as_it_is_printed(place):
    """The table has the first line while the stage still waits for the test to see it."""
    seen = place.folder / "seen"
    waits = (
        "import pathlib, time\n"
        f"table = pathlib.Path({str(place.results / 'table.md')!r})\n"
        "print('| first | 1 |', flush=True)\n"
        "end = time.monotonic() + 15\n"
        "while '| first' not in table.read_text() and time.monotonic() < end: time.sleep(0.05)\n"
        f"pathlib.Path({str(seen)!r}).write_text(table.read_text())"
    )
    stages.run([stage("waits", waits)], place, budget=60)
    assert "| first | 1 |" in seen.read_text()


def test_no_stage_is_begun_when_the_budget_is_used_up(place):
    ran = place.folder / "ran"
    stages.run([stage("late", f"open({str(ran)!r}, 'w')")], place, budget=1)
    assert "not begun: the budget of 1 s is used up" in table(place) and not ran.exists()


def test_stages_have_their_own_order_and_names():
    assert [one.name for one in stages.chosen("mini,tests,train")] == ["tests", "train", "mini"]
    with pytest.raises(ValueError, match="there is no stage trian; there are tests, train,"):
        stages.chosen("tests,trian")


def test_processes_keep_caches_in_the_bundle_and_ask_no_network(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    code = "import json, os; print('| ' + json.dumps(dict(os.environ)) + ' |')"
    stages.run([stage("tells", code)], place, budget=60)
    (line,) = [line for line in table(place).splitlines() if line.startswith("| {")]
    told = json.loads(line[2:-2])
    assert told["XDG_CACHE_HOME"] == str(place.folder / "cache")
    assert told["JAX_COMPILATION_CACHE_DIR"].startswith(told["XDG_CACHE_HOME"])
    assert told["PIP_NO_INDEX"] == told["HF_HUB_OFFLINE"] == "1"


def test_rows_of_tests_and_of_the_small_tokenizer(place):
    (place.results / "mini").mkdir(parents=True)
    (place.results / "tests.log").write_text("....\n== 5 passed, 2 skipped in 3.21s ==\n")
    (place.results / "mini.log").write_text("it gives at least 12.5 images/s, the step\n")
    rows = [{"step": 4, "split": "train", "loss": 1.0}, {"step": 4, "split": "eval", "psnr": 9.0}]
    (place.results / "mini" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert stages.STAGES["tests"].rows(place) == ["| tests | 5 passed, 2 skipped in 3.21s |"]
    assert stages.STAGES["mini"].rows(place) == ["| mini | step 4, psnr 9.000, 12.5 images/s |"]


def test_an_asset_that_is_not_bundled_is_one_line(tmp_path):
    command = [sys.executable, "-m", "launch.stages", f"--bundle={tmp_path}", "--stages=phases"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr == (
        "error: phases needs vocabulary.gguf, which this bundle lacks: make it with "
        "--stages=phases\n"
    )
