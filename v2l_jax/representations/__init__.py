"""How an image is written for a language model: one representation a file.

`config.representation.kind` names the file; its class is called `Options` there, because the fields
of the dataclass are the options `config.representation.<kind>.*`. To add one, write a file such as

    @dataclasses.dataclass(frozen=True)
    class Options(Representation):
        length: int = option(3, "letters of an image's file name that are shown", POSITIVE)

        def segments(self, run, images, budget):
            name = lambda index: (Text(pathlib.Path(images.path(index)).stem[: self.length]),)
            return Written(len(images), name)

and its test. Every task that asks for segments can then use it, with the controls in `controls.py`
around it. `base.py` says what the methods do.
"""

import dataclasses
import functools
import importlib
import pkgutil

from ml_collections import ConfigDict

from v2l_jax.representations.base import Representation
from v2l_jax.representations.controls import under_control


@functools.cache
def representations() -> dict[str, type[Representation]]:
    """Every representation by name: the modules here that declare `Options`."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return {name: module.Options for name, module in modules.items() if hasattr(module, "Options")}


def representation(config: ConfigDict, control: str = "none") -> Representation:
    """The representation that a config names, as a control shows it.

    Args:
      config: the whole experiment.
      control: "none" for the images' own segments, or one of `controls`.
    """
    kind = config.representation.kind
    made = representations()[kind]
    given = config.representation.get(kind, {})
    fields = {field.name: given[field.name] for field in dataclasses.fields(made)}
    return under_control(made(**fields), control, config.seed)


def fingerprint(config: ConfigDict) -> dict[str, str]:
    """The field "representation" of a row: which one it was measured with, and its options, such as
    "v2l_words (words nearest; vocabulary global)".
    """
    kind = config.representation.kind
    options = representation(config).fingerprint()
    listed = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
    return {"representation": f"{kind} ({listed})" if listed else kind}
