"""What is asked of an image, one task a file; `config.evaluate.tasks` names them.

A task's module offers
  Options                  a dataclass of its options, `config.evaluate.<task>.*`;
  POSITION                 where its section stands on the page;
  settings(config)         a dict of scalars for each row set; it is done when results.json has a
                           row of the task with these fields and of this identity;
  check(config)            raises, before anything runs, for what cannot work: missing files, too
                           few images, options that clash;
  measure(run, missing)    measures the row sets that are missing, and records each as soon as it is
                           there;
  section(run, results)    the task's part of the report, from its results and the files in
                           `run.folder(task)`; None for none. Its tables are `TableSpec`s.

Tasks that ask a language model about images get these as segments (`harness.loop.Writer`), whatever
the representation, and leave the rest to `harness.loop.measure`; `zero_shot.py` is the shortest.
"""

import functools
import importlib
import pkgutil
from types import ModuleType


@functools.cache
def tasks() -> dict[str, ModuleType]:
    """Every task by name, in the order of the page: the modules here that declare `Options`."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    found = {name: module for name, module in modules.items() if hasattr(module, "Options")}
    return dict(sorted(found.items(), key=lambda item: item[1].POSITION))
