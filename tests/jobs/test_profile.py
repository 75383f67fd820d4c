"""`--config.profile=2,3`: the flag's form, a trace in the run's folder, and a training that it does
not change.
"""

import json
import pathlib

import jax
import numpy as np

from tests import synthetic_config
from v2l_jax import experiment
from v2l_jax.jobs import runner
from v2l_jax.run import building, loading

CONFIG = pathlib.Path(synthetic_config.__file__)


def parsed(*given):
    return experiment.load(CONFIG, experiment.split_overrides(given)[1])


def trained(folder, profile):
    """A run of four steps and its weights."""
    llm = next(flag for flag in synthetic_config.fill(folder) if flag.startswith("--config.llm"))
    config = parsed(
        llm,
        "--config.train.steps=4",
        "--config.train.disc_start=100",
        f"--config.profile={profile}",
    )
    runner.run_jobs(config, folder)
    variables = building.trained_tokenizer(
        config, folder, synthetic_config.IMAGES, loading.mesh(config)
    ).variables
    return jax.tree.map(np.asarray, variables["params"])


def test_a_traced_run_ends_with_the_same_bits(tmp_path):
    plain, traced = trained(tmp_path / "plain", "()"), trained(tmp_path / "traced", "2,3")
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, traced))
    for name in ("metrics.jsonl", "training.json"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "traced" / name).read_bytes()
    assert len(list(tmp_path.glob("traced/profile/plugins/profile/*/*.xplane.pb"))) == 1
    assert not (tmp_path / "plain" / "profile").exists()


def test_a_folder_of_a_run_without_the_key_goes_on(tmp_path):
    runner.prepare(tmp_path, parsed())
    old = json.loads((tmp_path / "config.json").read_text())
    del old["profile"], old["data"]["short_side"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    runner.prepare(tmp_path, parsed("--config.profile=2,3"))
