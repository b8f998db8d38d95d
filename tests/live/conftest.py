"""The real server: Gunicorn in a process of its own, as `make run` starts it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from service.settings import PROJECT, setting_names

START_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running service."""

    address: str
    process: subprocess.Popen
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    """This process's environment with the given settings alone: empty ones hide those of a `.env` file."""
    hidden = {name: "" for canonical, aliases in setting_names().items() for name in (canonical, *aliases)}
    return {**os.environ, **hidden, "DATA_DIR": str(tmp_path / "data"), "SAM_BACKEND": "torch", **settings}


@contextmanager
def serving(tmp_path: Path, **settings: str) -> Iterator[Server]:
    port = free_port()
    log = tmp_path / f"server-{port}.log"
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment(tmp_path, FLASK_PORT=str(port), **settings),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _await_health(address, process, log)
            yield Server(address, process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise


def _await_health(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if requests.get(f"{address}/health", timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(tmp_path, **settings))
