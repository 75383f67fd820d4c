"""A run whose language model has what fine-tuning made: adapters and new rows of the embedding."""

import dataclasses
import functools
from typing import Any

import jax

from v2l_jax.errors import ConfigError
from v2l_jax.llm.adapter_step import NEW_ROWS, tuned_params
from v2l_jax.llm.llama_sharding import place_params
from v2l_jax.representations import representation
from v2l_jax.run import adapters, loading
from v2l_jax.run.run import Run

TUNED, UNTRAINED = "tuned", "untrained"
"""What the models of `tuned` and `untrained` are called (`Run.model`)."""


@dataclasses.dataclass(frozen=True)
class ChangedRun(Run):
    """A run with another language model.

    Attributes:
      base: the run whose images, folder and network it shares.
      changes: of `AdapterState.adapters`.
      scale: `Lora.scale`.
    """

    base: Any = None
    changes: Any = None
    scale: float = 1.0

    @functools.cached_property
    def llm(self) -> loading.LanguageModel:
        """The frozen network with what is beside it."""
        frozen = self.base.llm
        params = tuned_params(self.base.engine.params, self.changes, self.scale)
        mesh = self.mesh if self.mesh.size > 1 else None
        more = place_params({k: v for k, v in params.items() if k not in frozen.params}, mesh)
        return dataclasses.replace(frozen, params={**self.base.engine.params, **more})


def tuned(run: Run) -> Run:
    """The run with what the finetune job left.

    Raises:
      CheckpointError: it left nothing yet.
      ConfigError: it left adapters of other settings, or for another vocabulary.
    """
    lora = adapters.lora(run.config)
    changes: dict[str, Any] = dict(adapters.trained_adapters(run))
    rows, start = adapters.trained_rows(run), representation(run.config).new_rows(run)
    have, want = (0 if x is None else len(x) for x in (rows, start))
    if have != want:
        raise ConfigError(
            f"the adapters in {adapters.adapters_folder(run.workdir)} have {have} new rows, but "
            f"the representation writes with {want}: they are for another vocabulary; delete that "
            "folder and run the finetune job again"
        )
    if rows is not None:
        changes[NEW_ROWS] = {"rows": jax.numpy.asarray(rows)}
    return _changed(run, TUNED, changes, lora.scale)


def untrained(run: Run) -> Run:
    """The run whose new rows are where they start; the run itself where there are none."""
    start = representation(run.config).new_rows(run)
    if start is None:
        return run
    changes = {NEW_ROWS: {"rows": jax.numpy.asarray(start)}}
    return _changed(run, UNTRAINED, changes, 1.0)


def of_model(run: Run, model: str) -> Run:
    """The run with the language model that another process calls so (`Run.model`)."""
    return {"": lambda run: run, TUNED: tuned, UNTRAINED: untrained}[model](run)


def _changed(run: Run, model: str, changes: dict[str, Any], scale: float) -> Run:
    return ChangedRun(
        run.config,
        run.workdir,
        run.identify,
        run.together,
        model,
        base=run,
        changes=changes,
        scale=scale,
    )
