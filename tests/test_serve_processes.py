"""The service as processes of its own: signals, killed workers, and clients that misbehave."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from distill.cli import serve as command
from distill.errors import UserError, install_command
from distill.pipeline.export import export_student

WAIT_S = 60  # for what takes a second where nothing else runs


@pytest.fixture(scope="module")
def desk(tmp_path_factory, make_experiment) -> Path:
    """An experiment that has exported, and a picture beside it."""
    root = tmp_path_factory.mktemp("desk")
    export_student(make_experiment(root / "mine", "single"))
    Image.new("RGB", (40, 30), (200, 60, 60)).save(root / "red.jpg")
    return root


class Program:
    """A running `distill serve`, whose log is read."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the log says of an event."""
        records = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [record for record in records if record["event"] == name]

    def wait_for(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """The same, when it has been said so often."""
        until(lambda: len(self.events(name)) >= count or self.process.poll() is not None)
        assert len(self.events(name)) >= count, "".join(self.lines)
        return self.events(name)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Asks it to end, and waits until it has."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(WAIT_S)
        self._reader.join()
        return status


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + WAIT_S
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    assert value
    return value


@contextlib.contextmanager
def running(model: Path, *options: str) -> Iterator[tuple[Program, httpx.URL]]:
    arguments = [sys.executable, "-m", "distill", "serve", str(model), "--port", "0", *options]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    program = Program(process)
    try:
        url = httpx.URL(program.wait_for("listening")[0]["url"])
        program.wait_for("ready")
        yield program, url
    finally:
        if process.poll() is None:
            process.kill()
        program.end()


@contextlib.contextmanager
def connected(url: httpx.URL) -> Iterator[socket.socket]:
    with socket.create_connection((url.host, url.port), WAIT_S) as one:
        yield one


def everything(one: socket.socket) -> bytes:
    """What comes until the other side closes, or breaks off."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := one.recv(65536):
            received += chunk
    return received


def request_of(content: bytes) -> bytes:
    lines = [
        "POST /v1/predict HTTP/1.1",
        "Host: x",
        "Connection: close",
        "Content-Type: image/jpeg",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def test_one_process_bounds_its_clients_and_finishes_what_it_accepted(desk) -> None:
    picture = (desk / "red.jpg").read_bytes()
    limits = ["--header-timeout-s", "0.5", "--max-mb", "1"]
    with running(desk / "mine", *limits) as (program, url):
        assert httpx.get(url.copy_with(path="/readyz")).json() == {"status": "ready"}
        with connected(url) as silent, connected(url) as half, connected(url) as garbage:
            half.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nX-")
            garbage.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n")
            for one, status in ((silent, 408), (half, 408), (garbage, 400)):
                head, _, body = everything(one).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 %d " % status)
                assert b"application/problem+json" in head
                assert json.loads(body)["status"] == status
        with connected(url) as endless:
            endless.sendall(b"GET / HTTP/1.1\r\nX-Large: " + b"a" * 40_000)
            assert everything(endless).startswith(b"HTTP/1.1 431 ")
        assert [one["status"] for one in program.wait_for("refused", 4)].count(408) == 2
        offered = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEA"
        asked = request_of(picture).replace(b"Connection: close", offered.encode())
        for place in (0, *(asked.index(part) for part in (b"pgrade: h2c", b": h2c", b"\nHTTP2-"))):
            with connected(url) as java:  # which offers HTTP/2 with every picture
                java.sendall(asked[:place])
                time.sleep(0.1)
                java.sendall(asked[place:])
                java.sendall(request_of(picture))  # the next one on this connection
                answers = everything(java)
            assert answers.count(b"HTTP/1.1 200 ") == answers.count(b'"labels": ["red"]') == 2
        with connected(url) as large:  # sees the answer, though it has not read that of its half
            large.sendall(request_of(bytes(4 * 2**20)))
            assert everything(large).startswith(b"HTTP/1.1 413 ")
        with connected(url) as slow:
            request = request_of(picture)
            slow.sendall(request[:-10])
            slow.settimeout(0.3)  # it is accepted: the head has been read
            with pytest.raises(TimeoutError):
                slow.recv(1)
            slow.settimeout(WAIT_S)
            program.process.send_signal(signal.SIGTERM)
            program.wait_for("ending")
            slow.sendall(request[-10:])
            answer = everything(slow)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"labels": ["red"]' in answer
        assert program.end() == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forks")
def test_a_killed_worker_is_started_anew_and_its_clients_are_told(desk) -> None:
    picture = (desk / "red.jpg").read_bytes()
    with running(desk / "mine", "--workers", "2") as (program, url):
        first = {record["process"] for record in program.wait_for("ready", 2)}
        assert len(first) == 2
        headers = {"content-type": "image/jpeg"}
        predict = url.copy_with(path="/v1/predict")
        for _ in range(20):  # a connection each, so that both have some
            assert httpx.post(predict, content=picture, headers=headers).status_code == 200
        served = {record["process"] for record in program.wait_for("request", 20)}
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(connected(url)) for _ in range(8)]
            for one in held:
                one.sendall(request_of(picture)[:-10])
            until(lambda: len(connections_of(first)) >= 8)
            victim = next(iter(served))
            os.kill(victim, signal.SIGKILL)
            program.wait_for("ready", 3)
            for one in held:
                with contextlib.suppress(ConnectionError):
                    one.sendall(request_of(picture)[-10:])
            answers = [everything(one) for one in held]
        assert {answer[:13] for answer in answers} <= {b"HTTP/1.1 200 ", b""}  # an end, no silence
        (death,) = program.events("a worker died and is started anew")
        assert (death["worker"], death["exit_code"]) == (victim, -signal.SIGKILL)
        answered = 20 + sum(map(bool, answers))
        for _ in range(4):  # whoever is asked, and though one has died
            text = httpx.get(url.copy_with(path="/metrics")).text
            count = re.search(r'requests_total\{path="/v1/predict",status="200"\} (\d+)', text)
            assert int(count[1]) == answered
        living = [record["process"] for record in program.events("ready")]
        assert program.end(signal.SIGINT) == 130
    until(lambda: not [pid for pid in living if exists(pid)])


def connections_of(pids: set[int]) -> list[Any]:
    import psutil

    found = [one for pid in pids for one in psutil.Process(pid).net_connections("tcp")]
    return [one for one in found if one.status == "ESTABLISHED"]


def exists(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forks")
def test_workers_end_with_their_supervisor(desk) -> None:
    with running(desk / "mine", "--workers", "2") as (program, _):
        workers = [record["process"] for record in program.wait_for("ready", 2)]
        program.process.kill()
        until(lambda: not [pid for pid in workers if exists(pid)])


def test_mistakes_are_one_line(desk, monkeypatch) -> None:
    serve = command.serve_command
    for models, what in (
        ([str(desk / "nothing.onnx")], "no such file"),
        ([str(desk / "red.jpg")], "a picture, not a model"),
        ([str(desk)], "no shipped file in this folder"),
        (["a=x.onnx", "a=y.onnx"], "two models are called"),
    ):
        with pytest.raises(UserError, match=what):
            serve(models)
    with pytest.raises(UserError, match="never fits a queue"):
        serve(["a.onnx"], max_images=8, queue=4)
    with pytest.raises(UserError, match="one of debug"):
        serve(["a.onnx"], log_level="loud")
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(
        UserError, match=re.escape(f"needs uvicorn. Fix: {install_command('serve')}")
    ):
        serve(["a.onnx"])


def test_a_connection_in_use_ends_the_program_with_a_line(desk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        arguments = [sys.executable, "-m", "distill", "serve", str(desk / "mine"), "--port", port]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 2
    assert re.fullmatch(r"error: cannot listen, .*\n", done.stderr)
