"""What each key of a config may hold. A config is checked whole before anything runs."""

import dataclasses
import difflib
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from v2l_jax.errors import ConfigError

JOBS = ("codebook", "train", "tokenize", "evaluate", "report")


@dataclasses.dataclass(frozen=True)
class Rule:
    """A test of a value, and the words that say what it wants."""

    wants: str
    allows: Callable[[Any], bool]


def _number(low: int | float, high: int | float = float("inf"), integer: bool = False) -> Rule:
    kind = int if integer else (int, float)
    span = f"of at least {low}" if high == float("inf") else f"from {low} to {high}"
    return Rule(
        f"{'an integer' if integer else 'a number'} {span}",
        lambda v: isinstance(v, kind) and not isinstance(v, bool) and low <= v <= high,
    )


def _one_of(*choices: Any) -> Rule:
    return Rule("one of " + ", ".join(map(repr, choices)), lambda v: v in choices)


def _each(rule: Rule, least: int = 0) -> Rule:
    at_least = f" (at least {least})" if least else ""
    return Rule(
        f"a tuple{at_least}, each {rule.wants}",
        lambda v: isinstance(v, (tuple, list)) and len(v) >= least and all(map(rule.allows, v)),
    )


_TEXT = Rule("a text", lambda v: isinstance(v, str))
_NAME = Rule("a text that is not empty", lambda v: isinstance(v, str) and bool(v))
_FLAG = Rule("True or False", lambda v: isinstance(v, bool))
_POSITIVE = _number(1, integer=True)
_COUNT = _number(0, integer=True)
_WEIGHT = _number(0)
_DTYPE = _one_of("float32", "bfloat16", "auto")
_TEMPLATE = Rule("a text with one {}", lambda v: isinstance(v, str) and v.count("{}") == 1)
_RANGE = Rule(
    "() or two numbers low, high with 0 < low <= high <= 1",
    lambda v: isinstance(v, tuple) and (v == () or (len(v) == 2 and 0 < v[0] <= v[1] <= 1)),
)

RULES: dict[str, Rule] = {
    "seed": _COUNT,
    "jobs": _each(_one_of(*JOBS), least=1),
    "mesh.data": _number(-1, integer=True),
    "llm.weights": _NAME,
    "llm.tokenizer": _TEXT,
    "llm.dtype": _DTYPE,
    "llm.token_budget": _number(64, integer=True),
    "tower.kind": _one_of("clip", "conse"),
    "tower.weights": _TEXT,
    "tower.classifier": _TEXT,
    "tower.sentence_encoder": _TEXT,
    "tower.synsets": _TEXT,
    "tower.lemmas": _TEXT,
    "tower.top_classes": _POSITIVE,
    "tower.class_template": _TEMPLATE,
    "tower.dtype": _DTYPE,
    "tower.batch_size": _POSITIVE,
    "data.kind": _one_of("folders", "tfds", "synthetic"),
    "data.name": _NAME,
    "data.labelled": _each(_NAME),
    "data.rename_classes.*": _NAME,
    "data.unlabelled": _each(_NAME),
    "data.report": _each(_NAME),
    "data.crop_size": _COUNT,
    "data.antialias": _FLAG,
    "data.held_out": _number(0.01, 0.99),
    "data.tfds_dir": _TEXT,
    "data.synthetic_length": _POSITIVE,
    "data.synthetic_size": _number(8, integer=True),
    "codebook.word_initial": _FLAG,
    "codebook.vocabulary_limit": _COUNT,
    "codebook.expand_limit": _COUNT,
    "codebook.local_limit": _COUNT,
    "codebook.ngrams": _number(1, 3, integer=True),
    "codebook.templates": Rule(
        "'imagenet', or a tuple of texts with one {} each",
        lambda v: v == "imagenet" or _each(_TEMPLATE, least=1).allows(v),
    ),
    "codebook.merge_spellings": _FLAG,
    "codebook.filter_top": _POSITIVE,
    "codebook.filter_min_hits": _POSITIVE,
    "codebook.expand_batch_size": _POSITIVE,
    "codebook.embed_batch_size": _POSITIVE,
    "model.image_size": _number(8, integer=True),
    "model.channels": Rule("a multiple of 32", lambda v: isinstance(v, int) and v > 0 and v % 32 == 0),
    "model.channel_multipliers": _each(_POSITIVE, least=1),
    "model.num_res_blocks": _POSITIVE,
    "model.z_channels": _POSITIVE,
    "model.attn_resolutions": _each(_POSITIVE),
    "model.resolution": _POSITIVE,
    "model.cross_attention_heads": _POSITIVE,
    "model.global_tokens": _POSITIVE,
    "model.dtype": _DTYPE,
    "train.steps": _COUNT,
    "train.epochs": _number(0),
    "train.batch_size": _POSITIVE,
    "train.learning_rate": _number(0, 1),
    "train.warmup_steps": _COUNT,
    "train.warmup_epochs": _number(0),
    "train.perceptual": _TEXT,
    "train.perceptual_images": _COUNT,
    "train.weight_quantizer": _WEIGHT,
    "train.weight_perceptual": _WEIGHT,
    "train.weight_adversarial": _WEIGHT,
    "train.disc_start": _COUNT,
    "train.encoder_start": _COUNT,
    "train.encoder_scale": _number(0, 1),
    "train.projector_fit_every": _COUNT,
    "train.projector_fit_until": _COUNT,
    "train.crop_scale": _RANGE,
    "train.flip": _FLAG,
    "train.loader_workers": _COUNT,
    "train.log_every": _POSITIVE,
    "train.eval_every": _POSITIVE,
    "train.checkpoint_every": _POSITIVE,
    "train.keep_last": _POSITIVE,
    "evaluate.batch_size": _POSITIVE,
    "evaluate.few_shot.ways": _each(_number(2, integer=True)),
    "evaluate.few_shot.shots": _each(_POSITIVE),
    "evaluate.few_shot.episodes": _POSITIVE,
    "evaluate.few_shot.tokens": _POSITIVE,
    "evaluate.few_shot.repetitions": _COUNT,
    "evaluate.few_shot.induction": _FLAG,
    "evaluate.few_shot.rule": _one_of("likelihood", "greedy"),
    "evaluate.few_shot.calibrate": _FLAG,
    "evaluate.few_shot.control_shots": _each(_POSITIVE),
}


def check(config: ConfigDict) -> None:
    """Raises ConfigError, in one line, for the first key that is unknown, missing, or holds what it cannot."""
    values = dict(_leaves(config))
    for key, value in values.items():
        rule = RULES.get(key) or RULES.get(key.rpartition(".")[0] + ".*")
        if rule is None:
            nearest = difflib.get_close_matches(key, RULES, n=1, cutoff=0.5)
            hint = f"; did you mean config.{nearest[0]}?" if nearest else ""
            raise ConfigError(f"unknown key config.{key}{hint}")
        if not rule.allows(value):
            raise ConfigError(f"config.{key} is {value!r}, but must be {rule.wants}")
    missing = [key for key in RULES if key not in values and not key.endswith(".*")]
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
    side = 2 ** (len(config.model.channel_multipliers) - 1)
    if config.model.image_size % side:
        raise ConfigError(
            f"config.model.image_size is {config.model.image_size}, but must be a multiple of {side}: "
            f"{len(config.model.channel_multipliers)} channel_multipliers halve it {len(config.model.channel_multipliers) - 1} times"
        )
    if config.tower.kind == "clip" and not config.tower.weights:
        raise ConfigError("config.tower.kind is 'clip', so config.tower.weights must name a CLIP checkpoint")
    if config.data.kind == "folders" and not config.data.labelled:
        raise ConfigError("config.data.kind is 'folders', so config.data.labelled must name at least one folder")
    if bool(config.train.steps) == bool(config.train.epochs):
        raise ConfigError("set one of config.train.steps and config.train.epochs, and leave the other 0")
    rule = config.evaluate.few_shot
    if rule.calibrate and rule.rule == "greedy":
        raise ConfigError("config.evaluate.few_shot.calibrate needs rule='likelihood'; set calibrate=False for greedy")
