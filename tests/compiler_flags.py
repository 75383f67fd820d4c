"""XLA's settings for tests: a program that runs a few times is not worth optimising."""

import os

_LEVEL = os.environ.get("TEST_OPTIMISED", "0")

# At level 0, and without MLIR's emitters, a tiny training step compiles three times as fast as with
# XLA's own settings. `make test` gives what is marked `real` level 1: real weights run for long.
# `make test-parity` keeps XLA's own level, and so compares what users run.
FAST_TO_COMPILE = f"--xla_backend_optimization_level={_LEVEL}"
if _LEVEL == "0":
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
