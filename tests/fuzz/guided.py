"""Damage guided by the branches that it reaches: `python -m tests.fuzz.guided READER --seconds 60`.

Needs atheris (pip install 'v2l_jax[fuzz]'; Linux, Python 3.11 to 3.13). libFuzzer changes sound
files and keeps what takes a new branch of this package; what counts as a fault is as in
`tests.fuzz`. libFuzzer's last lines say how many inputs were tried.
"""

import argparse
import hashlib
import pathlib
import sys
import tempfile

import atheris
from absl import logging

from tests.fuzz.harness import violations
from tests.fuzz.readers import READERS


def main() -> None:
    """Runs one reader until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=list(READERS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=pathlib.Path, default=pathlib.Path("/tmp/v2l_jax-faults"))
    given = parser.parse_args()
    logging.set_verbosity(logging.FATAL)  # what is assumed or left out of a damaged file
    with atheris.instrument_imports(include=["v2l_jax"]):
        reader = READERS[given.reader]()
    corpus = pathlib.Path(tempfile.mkdtemp(prefix="v2l_jax-corpus-"))
    place = pathlib.Path(tempfile.mkdtemp(prefix="v2l_jax-guided-"))
    for number, content in enumerate(reader.seeds):
        (corpus / f"sound-{number}").write_bytes(content)
    warm = list(violations(reader, iter(reader.seeds), place))
    assert not warm, f"a sound file is refused: {warm[0][1]}"
    found: set[str] = set()

    def one(content: bytes) -> None:
        for kept, what in violations(reader, iter([content]), place):
            if what[:80] not in found:
                found.add(what[:80])
                given.faults.mkdir(parents=True, exist_ok=True)
                path = given.faults / f"{given.reader}-{hashlib.sha256(kept).hexdigest()[:12]}"
                path.write_bytes(kept)
                print(f"{given.reader}: {what[:300]}\n  {path}", flush=True)

    longest = max(4096, *(2 * len(content) for content in reader.seeds))
    atheris.Setup(
        [
            sys.argv[0], str(corpus), f"-max_total_time={given.seconds}", f"-max_len={longest}",
            f"-seed={given.seed}", "-timeout=0", "-rss_limit_mb=4096", "-print_final_stats=1",
            "-verbosity=0",
        ],
        one,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == "__main__":
    main()
