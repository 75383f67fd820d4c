"""XLA's settings for tests: a program that runs a few times is not worth optimising."""

import os

# A tiny training step compiles three times as fast as with XLA's own settings. `make test-parity`
# keeps those, and so compares what users run.
FAST_TO_COMPILE = (
    ""
    if os.environ.get("TEST_OPTIMISED")
    else "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
