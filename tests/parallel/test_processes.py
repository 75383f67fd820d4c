"""Joining other processes: what cannot be reached is one line, soon."""

import socket
import time

import jax
import pytest

from v2l_jax.errors import ConfigError
from v2l_jax.parallel import processes


@pytest.mark.parametrize("address", ["localhost", "localhost:", "localhost:x", ":1", "host:70000"])
def test_an_address_that_is_none_is_named(address):
    with pytest.raises(ConfigError, match="must be host:port"):
        with processes.joined(address, 2, 1, 0.2):
            pass


@pytest.mark.parametrize("host, index", [("127.0.0.1", 1), ("no-such-host.invalid", 0)])
def test_a_coordinator_that_does_not_answer_is_one_line_after_the_time_given(host, index):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"cannot reach process 0 at {host}:{port}") as caught:
        with processes.joined(f"{host}:{port}", 2, index, 0.3):
            pass
    assert time.monotonic() - began < 20 and "\n" not in str(caught.value)


def test_a_coordinator_that_starts_later_is_waited_for():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        processes._reach(f"127.0.0.1:{listener.getsockname()[1]}", 5.0, listens=True)


@pytest.mark.parametrize("raised", [AssertionError(), RuntimeError("no tpu\nlong trace")])
def test_a_platform_that_is_not_there_is_one_line(monkeypatch, raised):
    def devices():
        raise raised

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    with pytest.raises(ConfigError, match="JAX_PLATFORMS=tpu") as caught:
        processes.check_devices()
    assert "\n" not in str(caught.value)
