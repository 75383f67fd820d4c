"""What each key of a config may hold. A config is checked whole before anything runs."""

import difflib
import importlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from v2l_jax.errors import ConfigError
from v2l_jax.option_rules import (
    COUNT,
    DTYPE,
    FLAG,
    NAME,
    POSITIVE,
    TEMPLATE,
    TEXT,
    WEIGHT,
    Rule,
    each,
    number,
    one_of,
)
from v2l_jax.tasks import TASKS
from v2l_jax.training.adversarial_loss import REMAT_POLICIES
from v2l_jax.training.optimizer import OPTIMIZERS, SCALINGS

JOBS = ("codebook", "train", "tokenize", "finetune", "evaluate", "release", "report")
JOBS_WITH_OPTIONS = ("finetune", "release")

_RANGE = Rule(
    "() or two numbers low, high with 0 < low <= high <= 1",
    lambda v: isinstance(v, tuple) and (v == () or (len(v) == 2 and 0 < v[0] <= v[1] <= 1)),
)

_STEPS = Rule(
    "() or two steps first, last with 1 <= first <= last",
    lambda v: v == () or (each(POSITIVE).allows(v) and len(v) == 2 and v[0] <= v[1]),
)
_AXIS = Rule(
    "a positive integer, or -1 for what the others leave",
    lambda v: isinstance(v, int) and (v == -1 or v > 0),
)
_SHARDING_RULE = Rule(
    "a regex and a tuple of an axis, axes or None for each dimension",
    lambda v: (
        isinstance(v, (tuple, list))
        and len(v) == 2
        and isinstance(v[0], str)
        and isinstance(v[1], (tuple, list))
    ),
)

RULES: dict[str, Rule] = {
    "seed": COUNT,
    "jobs": each(one_of(*JOBS), least=1),
    "mesh.replica": _AXIS,
    "mesh.data": _AXIS,
    "mesh.fsdp": _AXIS,
    "mesh.tensor": _AXIS,
    "sharding": each(_SHARDING_RULE),
    "llm": NAME,
    "llm_options.tokenizer": TEXT,
    "llm_options.dtype": DTYPE,
    "llm_options.token_budget": number(64, integer=True),
    "tower": Rule(
        "'conse', or 'clip:' and a checkpoint",
        lambda v: v == "conse" or (isinstance(v, str) and v[:5] == "clip:" and bool(v[5:])),
    ),
    "tower_options.classifier": TEXT,
    "tower_options.sentence_encoder": TEXT,
    "tower_options.synsets": TEXT,
    "tower_options.lemmas": TEXT,
    "tower_options.top_classes": POSITIVE,
    "tower_options.class_template": TEMPLATE,
    "tower_options.dtype": DTYPE,
    "tower_options.batch_size": POSITIVE,
    "data.kind": one_of("folders", "tfds", "synthetic"),
    "data.name": NAME,
    "data.labelled": each(NAME),
    "data.rename_classes.*": NAME,
    "data.unlabelled": each(NAME),
    "data.report": each(NAME),
    "data.crop_size": COUNT,
    "data.antialias": FLAG,
    "data.held_out": number(0.01, 0.99),
    "data.tfds_dir": TEXT,
    "data.synthetic_length": POSITIVE,
    "data.synthetic_size": number(8, integer=True),
    "codebook.word_initial": FLAG,
    "codebook.vocabulary_limit": COUNT,
    "codebook.expand_limit": COUNT,
    "codebook.local_limit": COUNT,
    "codebook.ngrams": number(1, 3, integer=True),
    "codebook.templates": Rule(
        "'imagenet', or a tuple of texts with one {} each",
        lambda v: v == "imagenet" or each(TEMPLATE, least=1).allows(v),
    ),
    "codebook.merge_spellings": FLAG,
    "codebook.filter_top": POSITIVE,
    "codebook.filter_min_hits": POSITIVE,
    "codebook.expand_batch_size": POSITIVE,
    "codebook.embed_batch_size": POSITIVE,
    "model.image_size": number(8, integer=True),
    "model.channels": Rule(
        "a multiple of 32", lambda v: isinstance(v, int) and v > 0 and v % 32 == 0
    ),
    "model.channel_multipliers": each(POSITIVE, least=1),
    "model.num_res_blocks": POSITIVE,
    "model.z_channels": POSITIVE,
    "model.attn_resolutions": each(POSITIVE),
    "model.resolution": POSITIVE,
    "model.cross_attention_heads": POSITIVE,
    "model.global_tokens": POSITIVE,
    "model.dtype": DTYPE,
    "train.steps": COUNT,
    "train.epochs": number(0),
    "train.batch_size": POSITIVE,
    "train.micro_batches": POSITIVE,
    "train.optimizer": one_of(*OPTIMIZERS),
    "train.learning_rate": number(0, 1),
    "train.learning_rate_scaling": one_of(*SCALINGS),
    "train.base_batch_size": POSITIVE,
    "train.warmup_steps": COUNT,
    "train.warmup_epochs": number(0),
    "train.perceptual": TEXT,
    "train.perceptual_images": COUNT,
    "train.weight_quantizer": WEIGHT,
    "train.weight_perceptual": WEIGHT,
    "train.weight_adversarial": WEIGHT,
    "train.weight_entropy": WEIGHT,
    "train.entropy_temperature": number(1e-6),
    "train.disc_start": COUNT,
    "train.disc_warmup": COUNT,
    "train.start_from": TEXT,
    "train.encoder_start": COUNT,
    "train.encoder_scale": number(0, 1),
    "train.projector_fit_every": COUNT,
    "train.projector_fit_until": COUNT,
    "train.projector_recenter_every": COUNT,
    "train.projector_revive_every": COUNT,
    "train.ema_decay": number(0, 0.999999),
    "train.skip_spikes_above": Rule(
        "0, or a number above 1", lambda v: number(0).allows(v) and (v == 0 or v > 1)
    ),
    "train.skip_spikes_start": POSITIVE,
    "train.remat": one_of(*REMAT_POLICIES),
    "train.crop_scale": _RANGE,
    "train.flip": FLAG,
    "train.loader_workers": COUNT,
    "train.log_every": POSITIVE,
    "train.eval_every": POSITIVE,
    "train.checkpoint_every": POSITIVE,
    "train.keep_last": POSITIVE,
    "train.keep_every": COUNT,
    "train.hang_minutes": number(0),
    "evaluate.batch_size": POSITIVE,
    "evaluate.tasks": each(one_of(*TASKS)),
}

OPTIONAL: dict[str, Rule] = {
    "profile": _STEPS,
    # of training photos: decoded once, brought down to it, kept in memory; 0 = read anew each time
    "data.short_side": COUNT,
}
"""What a config may leave out."""


def rules_of(config: ConfigDict) -> dict[str, Rule]:
    """The rules of a config: everybody's, and those of the tasks and jobs that it has options for."""
    rules = RULES | OPTIONAL
    for task in TASKS:
        if task in config.get("evaluate", {}):
            rules |= _section(f"evaluate.{task}", f"v2l_jax.tasks.{task}")
    for job in JOBS_WITH_OPTIONS:
        if job in config:
            rules |= _section(job, f"v2l_jax.jobs.{job}")
    return rules


def _section(name: str, module: str) -> dict[str, Rule]:
    return {f"{name}.{key}": rule for key, rule in importlib.import_module(module).RULES.items()}


def check(config: ConfigDict) -> None:
    """Raises ConfigError, in one line, for the first key that is unknown, missing, or holds what it
    cannot.
    """
    values, rules = dict(_leaves(config)), rules_of(config)
    for key, value in values.items():
        rule = rules.get(key) or rules.get(key.rpartition(".")[0] + ".*")
        if rule is None:
            nearest = difflib.get_close_matches(key, rules, n=1, cutoff=0.5)
            hint = f"; did you mean config.{nearest[0]}?" if nearest else ""
            raise ConfigError(f"unknown key config.{key}{hint}")
        if not rule.allows(value):
            raise ConfigError(f"config.{key} is {value!r}, but must be {rule.wants}")
    missing = [
        key for key in rules if key not in values and key not in OPTIONAL and not key.endswith(".*")
    ]
    if missing:
        raise ConfigError(f"the config lacks {', '.join('config.' + key for key in missing[:5])}")
    _check_together(config)


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_together(config: ConfigDict) -> None:
    levels = len(config.model.channel_multipliers)
    if config.model.image_size % 2 ** (levels - 1):
        raise ConfigError(
            f"config.model.image_size is {config.model.image_size}, but must be a multiple of {2 ** (levels - 1)}: "
            f"{levels} channel_multipliers halve it {levels - 1} times"
        )
    if config.data.kind == "folders" and not config.data.labelled:
        raise ConfigError(
            "config.data.kind is 'folders', so config.data.labelled must name at least one folder"
        )
    if config.train.batch_size % config.train.micro_batches:
        raise ConfigError(
            f"config.train.batch_size is {config.train.batch_size}, but must be a multiple of "
            f"config.train.micro_batches, {config.train.micro_batches}"
        )
    if bool(config.train.steps) == bool(config.train.epochs):
        raise ConfigError(
            "set one of config.train.steps and config.train.epochs, and leave the other 0"
        )
    sections = {job: job in config for job in JOBS_WITH_OPTIONS} | {
        f"evaluate.{task}": task in config.evaluate for task in config.evaluate.tasks
    }
    wanted = {job: job in config.jobs for job in JOBS_WITH_OPTIONS} | {
        f"evaluate.{task}": True for task in config.evaluate.tasks
    }
    for name, there in sections.items():
        if wanted[name] and not there:
            raise ConfigError(
                f"the config asks for {name} but has no options for it in config.{name}"
            )
