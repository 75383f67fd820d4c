"""Everything that can change a number is part of its identity, and a changed option is measured
again.
"""

import copy
import json

import pytest

from tests import synthetic_config
from v2l_jax import experiment, options
from v2l_jax.jobs import evaluate, identity, sweep
from v2l_jax.metrics.results import Result, read_results, write_results
from v2l_jax.tasks import tasks

SPEED_LOGGING_PICTURES = """
    jobs profile sharding mesh.replica mesh.data mesh.fsdp mesh.tensor llm_options.token_budget
    tower_options.batch_size data.report codebook.expand_batch_size codebook.embed_batch_size
    train.remat train.loader_workers train.log_every train.checkpoint_every train.keep_last
    train.keep_every train.hang_minutes evaluate.tasks evaluate.batch_size
    evaluate.captioning.pictures evaluate.denoising.pictures evaluate.restoration.pictures
    evaluate.restoration.batch_size evaluate.semantic_quality.rings
    evaluate.semantic_quality.ring_words evaluate.vqa.pictures evaluate.classification.looked_at
    finetune.log_every
    finetune.eval_every finetune.eval_images finetune.checkpoint_every
    finetune.merged release.name sweep.title
""".split()
"""Whoever declares another option that changes no result adds it here, and says why in its
meaning.
"""

OTHER_VALUES = (
    1,
    2,
    3,
    0.5,
    0.25,
    True,
    False,
    "a {}",
    "b {}",
    "clip:x",
    (2, 3, 4),
    (0.25, 0.5),
    (1, 2),
)
OTHER_VALUES += (
    64,
    (("late", ()),),
    ("a {}",),
    {"a": "b"},
    "bfloat16",
    "float32",
    ("x", "y", "z"),
    ("x", "y"),
    (),
)


def another(one: options.Option):
    """A value of an option that is not its default: another choice, or one of `OTHER_VALUES`."""
    named = one.rule.wants.partition("one of ")[2].split(", or")[0].replace("'", "").split(", ")
    named_elsewhere = {"model.kind": "vqgan", "representation.kind": "none"}
    for path in ("caption.file", "frozen.captions", "visual_words.said", "mixed_words.said"):
        path = f"representation.{path}"
        named_elsewhere[path] = __file__  # its content counts, so it is read
    two = (("early", ()), ("late", (("train.disc_start", 9),)))
    named_elsewhere |= {"sweep.axes": (("start", two),), "sweep.target": ("psnr", 20.0)}
    if one.path in named_elsewhere:
        return named_elsewhere[one.path]
    choices = [*named, *((name,) for name in named)] if "one of" in one.rule.wants else []
    for value in (*choices, *OTHER_VALUES):
        if value != one.default and one.rule.allows(value):
            return value
    raise AssertionError(f"no other value for {one.path}, which must be {one.rule.wants}")


def sections_of(path: str) -> list[str]:
    """The sections whose numbers an option can change."""
    if path == "evaluate.few_shot.table_1":
        return []  # leaves out some of the rows that the other options name
    parts = path.split(".")
    if parts[0] == "evaluate" and len(parts) > 2:
        return [".".join(parts[:2])]
    if parts[0] in ("release", "sweep"):
        return [parts[0]]
    return (
        ["evaluate.restoration"] if parts[0] == "finetune" else [f"evaluate.{t}" for t in tasks()]
    )


def with_value(config, path: str, value):
    changed = copy.deepcopy(config)
    *parents, name = path.split(".")
    at = changed
    for parent in parents:
        at = at[parent]
    at[name] = value
    if path == "sweep.seeds":
        changed.sweep.axes = (("start", (("early", ()),)),)
    if parents[:2] == ["model", "quantizers"]:
        changed.model.kind, changed.model.vqgan.quantizer = "vqgan", parents[2]
    elif parents[:1] in (["model"], ["representation"]) and len(parents) > 1:
        changed[parents[0]]["kind"] = parents[1]
    return changed


def measured(config, section: str):
    """What tells one measurement of a section from another: its rows, and what they share."""
    asks = {f"evaluate.{name}": task for name, task in tasks().items()} | {"sweep": sweep}
    rows = asks[section].settings(config) if section in asks else []
    return identity.shared_options(config, section), rows


def test_every_option_that_can_change_a_result_is_part_of_its_identity():
    config, usual, forgotten = experiment.default(), {}, []
    for path, one in experiment.known().items():
        if not one.changes_results:
            continue
        before, after = (with_value(config, path, v) for v in (one.default, another(one)))
        chosen = (before.model.kind, before.model.vqgan.quantizer, before.representation.kind)
        for section in sections_of(path):
            key = (*chosen, before.sweep.axes, section)
            if key not in usual:
                usual[key] = measured(before, section)
            if measured(after, section) == usual[key]:
                forgotten.append((path, section))
    assert not forgotten


def test_no_option_is_called_harmless_unseen():
    harmless = {path for path, one in experiment.known().items() if not one.changes_results}
    assert harmless == set(SPEED_LOGGING_PICTURES)


@pytest.fixture
def config(tmp_path):
    config = synthetic_config.get_config()
    config.llm = "tiny"
    config.evaluate.tasks = ("few_shot", "captioning", "vqa", "restoration")
    return config


@pytest.fixture
def all_measured(config, tmp_path):
    """A workdir in which every number asked for stands."""
    rows = []
    for task in config.evaluate.tasks:
        fields = identity.note(config, f"evaluate.{task}", tmp_path)
        for setting in tasks()[task].settings(config):
            rows.append(
                Result("accuracy", 1.0, 1, None, {"task": task, "llm": "tiny", **fields, **setting})
            )
    write_results(tmp_path / "results.json", rows)
    assert evaluate.is_done(config, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("llm_options.dtype", "bfloat16"),
        ("evaluate.few_shot.class_names", {"pizza": "flatbread"}),
        ("evaluate.captioning.annotations", "other.json"),
        ("evaluate.captioning.source", "stamps"),
        ("evaluate.vqa.coco_qa.asked", ("coco-qa-sample/cocoqa-2015-05-17/train",)),
        ("finetune.weight_decay", 0.1),
        ("finetune.warmup_steps", 3),
        ("finetune.mask_text", "?"),
    ],
)
def test_a_changed_option_is_measured_again(config, all_measured, path, value):
    assert not evaluate.is_done(with_value(config, path, value), all_measured)


def test_speed_and_logging_are_not_measured_again(config, all_measured):
    changed = with_value(config, "llm_options.token_budget", 128)
    changed.train.log_every, changed.mesh.tensor, changed.evaluate.batch_size = 7, 2, 3
    assert evaluate.is_done(changed, all_measured)


def test_another_commit_and_other_files_are_measured_again(
    config, all_measured, monkeypatch, tmp_path
):
    monkeypatch.setattr(identity.workdirs, "code_version", lambda: "another")
    assert not evaluate.is_done(config, all_measured)
    monkeypatch.undo()
    captions = tmp_path / "captions.json"
    captions.write_text("{}")
    digest = identity.path_digest(str(captions))
    captions.write_text("[]")
    identity.path_digest.cache_clear()
    assert identity.path_digest(str(captions)) != digest


def test_each_row_says_what_its_digest_stands_for(config, all_measured):
    known = json.loads((all_measured / "identities.json").read_text())
    for row in read_results(all_measured / "results.json"):
        whole = known[row.measured_on["identity"]]
        assert whole["section"] == f"evaluate.{row.measured_on['task']}"
        assert whole["options"]["llm"] == "tiny" and whole["commit"] == row.measured_on["commit"]


def test_a_released_tokenizer_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = synthetic_config.get_config()
    config.model.released, config.model.kind = "v2l.pth", "v2l"
    seen = set()
    for content in (b"one", b"two"):
        (tmp_path / "v2l.pth").write_bytes(content)
        identity.path_digest.cache_clear()
        section = "evaluate.reconstruction"
        seen.add(identity.row_fields(config, section, tmp_path)["identity"])
    assert len(seen) == 2
