"""What identifies a measured number: everything that can change it.

A row of results.json carries a digest of this, the commit and the device; identities.json in the
workdir says what each digest stands for. A row whose digest is not today's is measured again.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from v2l_jax import buckets, experiment, options
from v2l_jax.assets import registry
from v2l_jax.metrics.results import Scalar, read_results
from v2l_jax.run import loading
from v2l_jax.run import workdir as workdirs

_FILE = "identities.json"
_READ_AS_TEXT = 1 << 20


def shared_options(config: ConfigDict, section: str) -> dict[str, Any]:
    """The options that can change a number of one section: its own, and those of the run.

    Args:
      config: the whole experiment.
      section: "evaluate.<task>", "sweep" or "release".

    Returns:
      Values by dotted path; without those that the rows themselves carry (`option(in_row=True)`).
    """
    found = {}
    for path, value in options.flatten(config, experiment.known()):
        one = experiment.known()[path]
        chosen = one.changes_results and not (one.in_row and path.startswith(f"{section}."))
        if chosen and _belongs(path, section, config):
            found[path] = value
    return found


def _belongs(path: str, section: str, config: ConfigDict) -> bool:
    """Whether an option is one of a section's, or one that all sections depend on."""
    parent = path.rpartition(".")[0]
    if path.startswith(f"{section}."):
        return True
    if parent.startswith("model.quantizers."):
        kind = config.model.kind
        own = config.model[kind] if kind in config.model else {}
        return parent == f"model.quantizers.{own.get('quantizer', '')}"
    for kinds, chosen in (
        ("model", config.model.kind),
        ("representation", _representation(config)),
    ):
        if parent.startswith(f"{kinds}."):
            return parent == f"{kinds}.{chosen}" or parent.startswith(f"{kinds}.{chosen}.")
    everybody = {
        "",
        "llm_options",
        "tower_options",
        "data",
        "codebook",
        "model",
        "train",
        "representation",
    }
    return parent in everybody or parent in READS.get(section, ())


READS = {
    f"evaluate.{task}": ("finetune",)
    for task in ("restoration", "classification", "detection", "vqa")
}
"""Sections of the config that a section depends on beside the run's own."""


def _representation(config: ConfigDict) -> str:
    return config.representation.kind if "representation" in config else ""


def identity(config: ConfigDict, section: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Everything that can change a number of a section: options, files, commit and device.

    Args:
      config: the whole experiment.
      section: as in `shared_options`.
      workdir: the run's folder; its training and adapters are named by their checkpoints.
    """
    chosen = shared_options(config, section)
    for key in ("llm_options.dtype", "tower_options.dtype", "model.dtype"):
        chosen[key] = str(loading.matmul_dtype(chosen[key]))
    device = jax.devices()[0]
    return {
        "options": chosen,
        "files": dict(_files(chosen)),
        "data": data_digests(config),
        "training": workdirs.read_json(workdir / "training.json", {}),
        "commit": workdirs.code_version(),
        "device": f"{device.platform}: {device.device_kind}",
    }


def data_digests(config: ConfigDict) -> dict[str, str]:
    """What tells the run's images from others of the same name: names and sizes of all files of a
    folder; version and lengths of a TFDS set.
    """
    c = config.data
    if c.kind == "folders":
        return {
            path: path_digest(str(loading.locate(path))) for path in (*c.labelled, *c.unlabelled)
        }
    images = loading.photos(config)
    lengths = f"{len(images.train)} and {len(images.held_out)} images"
    return {getattr(images.train, "full_name", c.kind): lengths}


def _files(chosen: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A digest of every file or folder, here or in a bucket, that an option's text names."""
    for path, value in chosen.items():
        texts = value if isinstance(value, (tuple, list)) else (value,)
        for text in texts:
            if (
                isinstance(text, str)
                and ("/" in text or path.startswith("model.released"))
                and text.partition("/")[0] not in registry.ASSETS
            ):
                place = text.partition(":")[2] if path == "tower" else text
                if place.startswith(("gs://", "s3://")):
                    yield f"{path}: {text}", _bucket_digest(place)
                elif os.path.exists(place):
                    yield f"{path}: {text}", path_digest(place)


_bucket_digest = functools.cache(buckets.digest)
_SETTINGS = 1 << 16  # bytes of the longest JSON that may be settings; vocabularies are longer


@functools.cache
def path_digest(path: str) -> str:
    """Digest of a file's size and first and last megabyte, or of the names and sizes in a folder
    and of its JSON files, which may state settings.
    """
    place, digest = pathlib.Path(path), hashlib.sha256()
    if place.is_dir():
        for file in sorted(p for p in place.rglob("*") if p.is_file()):
            digest.update(
                f"{file.relative_to(place)} {file.stat().st_size}\n".encode(
                    errors="surrogateescape"
                )
            )
            if file.suffix == ".json" and file.stat().st_size < _SETTINGS:
                digest.update(file.read_bytes())
        return digest.hexdigest()[:16]
    size = place.stat().st_size
    with place.open("rb") as content:
        digest.update(f"{size}\n".encode() + content.read(_READ_AS_TEXT))
        content.seek(max(0, size - _READ_AS_TEXT))
        digest.update(content.read())
    return digest.hexdigest()[:16]


def row_fields(config: ConfigDict, section: str, workdir: pathlib.Path) -> dict[str, Scalar]:
    """The fields "identity", "commit" and "device" of a section's rows."""
    return _fields(identity(config, section, workdir))


def _fields(whole: Mapping[str, Any]) -> dict[str, Scalar]:
    text = json.dumps(whole, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {"identity": digest, "commit": whole["commit"], "device": whole["device"]}


def note(config: ConfigDict, section: str, workdir: pathlib.Path) -> dict[str, Scalar]:
    """`row_fields`, after noting in identities.json what their digest stands for."""
    whole, path = identity(config, section, workdir), workdir / _FILE
    fields, known = _fields(whole), workdirs.read_json(path, {})
    if fields["identity"] not in known:
        plain = json.loads(json.dumps(whole, default=str))
        workdirs.write_json(path, known | {fields["identity"]: {"section": section} | plain})
    return fields


def missing(
    config: ConfigDict, section: str, settings: Sequence[dict[str, Scalar]], workdir: pathlib.Path
) -> list[dict[str, Scalar]]:
    """The settings of a section that have no row of this language model and this identity.

    Args:
      config: the whole experiment.
      section: as in `shared_options`; its last part is what rows call the task.
      settings: fields of each row set.
      workdir: the run's folder.
    """
    if not settings:
        return []
    rows = [result.measured_on for result in read_results(workdir / "results.json")]
    digest = row_fields(config, section, workdir)["identity"]
    fixed = {"task": section.rpartition(".")[2], "llm": config.llm, "identity": digest}
    has = lambda row, wanted: all(key in row and row[key] == wanted[key] for key in wanted)
    return [setting for setting in settings if not any(has(row, fixed | setting) for row in rows)]
