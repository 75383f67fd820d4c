"""What can be measured, one task a file; `config.evaluate.tasks` names them in order.

A task's module offers
  RULES                    what each key of `config.evaluate.<task>` may hold;
  settings(config)         a dict of scalars for each row set; it is done when results.json has a row of the task with these fields;
  check(config)            raises, before anything runs, for what cannot work: missing files, too few photos, options that clash;
  measure(run, missing)    measures the row sets that are missing, and records each as soon as it is there;
  section(run, results)    the task's part of the report, from its results and the files in `run.folder(task)`; None for none.
"""

TASKS = (
    "reconstruction",
    "few_shot",
    "token_choice",
    "semantic_quality",
    "captioning",
    "vqa",
    "denoising",
    "restoration",
    "scaling",
    "codebook_health",
)
