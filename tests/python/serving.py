"""A server as a process, and what tests ask of it with nothing but Python's own library."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import subprocess_env

WAIT = 120.0  # seconds for anything that a busy machine may make slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the server where it is expected to end by itself."""
    command = [sys.executable, "-m", "xquant_gguf.serve", *map(str, args)]
    env = subprocess_env(**environment)
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=WAIT)


def need_program() -> None:
    from xquant_gguf.errors import LibraryError
    from xquant_gguf.serve.cli import find_program

    try:
        find_program()
    except LibraryError as error:
        pytest.skip(str(error))


@dataclass
class Server:
    """A running one."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        status, text = self.request("GET", path)
        assert status == 200, text
        return text

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        status, text = self.request("POST", path, body)
        assert status == 200, text
        found: dict[str, Any] = json.loads(text)
        return found

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8")

    def leave_after(self, path: str, body: Mapping[str, Any], chunks: int) -> None:
        """Hang up in the middle of a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        with contextlib.closing(connection):
            data = json.dumps({**body, "stream": True})
            connection.request("POST", path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            for _ in range(2 * chunks):  # each is followed by an empty line
                if not answer.readline():
                    break

    def complete(self, prompt: str, tokens: int = 16, **more: Any) -> Answer:
        """The likeliest tokens behind a text, which is read afresh unless told otherwise."""
        body = {
            "prompt": prompt,
            "n_predict": tokens,
            "temperature": 0,
            "n_probs": 4,
            "cache_prompt": False,
            "ignore_eos": True,
            **more,
        }
        return Answer.of(self.post("/completion", body))

    def metrics(self) -> dict[str, float]:
        rows = re.findall(r"^([a-z]\S*) (\S+)$", self.get("/metrics"), re.MULTILINE)
        return {name: float(value) for name, value in rows}

    def idle(self) -> bool:
        return self.metrics()["llamacpp:requests_processing"] == 0

    def wait_idle(self, seconds: float = WAIT) -> None:
        until = time.monotonic() + seconds
        while not self.idle():
            assert time.monotonic() < until, "a request that nobody waits for goes on"
            time.sleep(0.1)

    def resident(self) -> int:
        """Bytes of memory that the process holds, apart from files."""
        text = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        found = re.search(r"RssAnon:\s+(\d+) kB", text)
        assert found
        return int(found[1]) * 1024


@dataclass(frozen=True)
class Answer:
    """Tokens of an answer, with the log-probabilities of the likeliest ones at each place.

    ``reused`` counts the prompt's tokens that were not read again.
    """

    text: str
    tokens: tuple[int, ...]
    likely: tuple[Mapping[int, float], ...]
    reused: int

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Answer:
        places = body["completion_probabilities"]
        return cls(
            text=body["content"],
            tokens=tuple(place["id"] for place in places),
            likely=tuple(
                {one["id"]: one["logprob"] for one in place["top_logprobs"]} for place in places
            ),
            reused=body["timings"]["cache_n"],
        )

    def first_difference(self, other: Answer) -> float | None:
        """By how much the first token that differs was likelier here; None if none does.

        What computes several sequences in one batch may round sums otherwise than for one, so
        tokens that are all but equally likely may change places. Behind that the texts differ.
        """
        for mine, theirs, likely in zip(self.tokens, other.tokens, self.likely):
            if mine != theirs:
                return likely[mine] - likely.get(theirs, float("-inf"))
        return None if len(self.tokens) == len(other.tokens) else float("inf")


@contextlib.contextmanager
def running(
    folder: Path, model: Path, *args: object, passed: Sequence[object] = (), ends: int = 0
) -> Iterator[Server]:
    """A server that is ready, and ended behind the block by SIGTERM; its exit code is checked."""
    need_program()
    port = free_port()
    log = folder / f"server-{port}.log"
    command = [sys.executable, "-m", "xquant_gguf.serve", str(model), "--port", str(port)]
    command += ["--threads", "2", *map(str, args), "--", *map(str, passed)]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, text=True, env=subprocess_env()
        )
    server = Server(process, port, log)
    try:
        _wait_ready(server)
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT) == ends, log.read_text("utf-8", "replace")[-3000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_ready(server: Server) -> None:
    until = time.monotonic() + WAIT
    while True:
        with contextlib.suppress(OSError):
            if server.request("GET", "/health")[0] == 200:
                return
        if server.process.poll() is not None or time.monotonic() > until:
            pytest.fail(server.log.read_text("utf-8", "replace")[-3000:])
        time.sleep(0.1)
