"""The load test of services: what the generator counts, what rows say, one run with a service."""

import asyncio
import contextlib
import json
from collections import Counter

import pytest
from PIL import Image

from distill.benchmarks import service, service_bench, service_pictures
from distill.benchmarks.service_load import Load, Outcome, arrivals, generate, is_whole
from distill.benchmarks.service_pictures import Size, make_pictures, request_of
from distill.benchmarks.service_records import Plan, Sample
from distill.benchmarks.service_report import BARE, markdown, tables
from distill.benchmarks.service_rows import kill_row, ratios, rows_of, slope_per_s, step_of
from distill.benchmarks.service_targets import Setting, free_port
from distill.errors import UserError
from distill.progress import Progress

MEBIBYTE = 2**20


def ask(tmp_path, answer, **load) -> Outcome:
    """What the generator counts of a server whose n-th request `answer(n, writer)` answers."""
    request = request_of(b"picture", "/predict", "image")
    (tmp_path / "request.http").write_bytes(request)
    asked = []

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readexactly(len(request)) == request:
                asked.append(request)
                await answer(len(asked), writer)

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        asked_for = {"mode": "closed", "connections": 1, "seconds": 0.3, "grace_s": 0.1} | load
        return await generate(Load(port, (str(tmp_path / "request.http"),), **asked_for))

    return asyncio.run(run())


def say(writer, status: int = 200, body: bytes = b"{}", length: int | None = None) -> None:
    size = len(body) if length is None else length
    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, size, body))


def test_every_request_is_counted_once(tmp_path):
    """Of the first five: an answer, one in two halves, a 503, a 500, one that is cut off."""

    async def answer(number, writer):
        if number == 2:
            say(writer, length=4)
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(b"..")
        elif number == 5:
            say(writer, length=100)
            writer.close()
        else:
            say(writer, {3: 503, 4: 500}.get(number, 200))

    outcome = ask(tmp_path, answer, seconds=0.5)
    assert (outcome.busy, outcome.errors) == (1, Counter({"500": 1, "closed": 1}))
    assert outcome.answered >= 2
    assert len(outcome.latencies_ms) in (outcome.answered, outcome.answered - 1)  # the last is late
    assert (outcome.silent, outcome.unsent) == (0, 0)


def test_a_request_that_nothing_comes_of_is_silent(tmp_path):
    async def answer(number, writer):
        if number != 2:
            say(writer)

    outcome = ask(tmp_path, answer)
    assert (outcome.answered, outcome.silent, outcome.errors) == (1, 1, Counter())
    outcome = ask(tmp_path, answer, mode="open", rate_per_s=100.0)
    due = len(list(arrivals(100.0, 0.3, 0)))
    assert (outcome.answered, outcome.silent, outcome.unsent) == (1, 1, due - 2)


def test_nobody_listens(tmp_path):
    (tmp_path / "request.http").write_bytes(b"GET / HTTP/1.1\r\n\r\n")
    load = Load(free_port(), (str(tmp_path / "request.http"),), "closed", 2, 0.1)
    outcome = asyncio.run(generate(load))
    assert set(outcome.errors) == {"refused"}
    assert outcome.answered == 0


def test_a_latency_counts_from_when_a_request_was_due(tmp_path):
    """A service that stalls for 0.3 s: a closed loop has one slow answer, an open one all that fell
    due meanwhile."""

    async def answer(number, writer):
        if number == 1:
            await asyncio.sleep(0.3)
        say(writer)

    slow = {}
    for mode in ("closed", "open"):
        outcome = ask(tmp_path, answer, mode=mode, rate_per_s=100.0, seconds=0.4, grace_s=3.0)
        slow[mode] = sum(ms > 100 for ms in outcome.latencies_ms)
        assert outcome.silent == outcome.unsent == 0
    early = sum(moment < 0.2 for moment in arrivals(100.0, 0.4, 0))
    assert early > 10
    assert slow["open"] >= early
    assert slow["closed"] <= early  # the one, and what a busy machine makes slow


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", False),
        (b"HTTP/1.1 200 OK\r\nContent-Len", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
    ],
)
def test_when_an_answer_is_whole(answer, whole):
    assert is_whole(answer) == whole


def test_pictures_have_the_size_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(service_pictures, "TILES", 4)
    size = Size("small", 6000, 160, 120)
    made = make_pictures(None, size, 2)
    assert made == make_pictures(None, size, 2)
    assert made[0][0] != made[1][0]
    for content, quality in made:
        assert 0.8 * 6000 < len(content) <= 6000
        assert 10 <= quality <= 95
        (tmp_path / "picture.jpg").write_bytes(content)
        assert Image.open(tmp_path / "picture.jpg").size == (160, 120)


def sample(target: str, latencies: list[float], share: float | None = None, **more) -> Sample:
    lost = {key: more.pop(key) for key in ("busy", "silent", "unsent") if key in more}
    outcome = Outcome(latencies_ms=sorted(latencies), answered=len(latencies), seconds=2.0, **lost)
    memory = {"rss": 3 * MEBIBYTE}
    return Sample(
        target=target,
        size="s",
        start_s=1.0,
        memory_bytes=memory,
        outcome=outcome,
        share=share,
        **more,
    )


def test_what_was_not_answered_was_waited_for_in_vain():
    """980 answers of 1,000: one in fifty never came, so there is no 99th percentile."""
    answers = [float(ms) for ms in range(1, 981)]
    step = step_of([sample("a", answers, 0.8, unsent=15, silent=3, busy=2, rate_per_s=500.0)], 0.8)
    assert (step.answered_percent, step.lost, step.busy) == (98.0, 18, 2)
    assert (step.latency_p50_ms, step.latency_p99_ms) == (500.0, None)
    step = step_of([sample("a", answers, 0.8, unsent=5, rate_per_s=500.0)], 0.8)
    assert step.latency_p99_ms == 976.0  # rank 975.15, rounded up, of 985


def test_only_the_first_of_ours_is_soaked(tiny_onnx, monkeypatch):
    """A soak of ten minutes for each of two forms of a body made a run twice as long."""
    asked = []
    monkeypatch.setattr(service_bench, "SIZES", ())
    monkeypatch.setattr(service_bench.Bench, "measure", lambda *_: [])
    monkeypatch.setattr(service_bench.Bench, "kill", lambda _, target: asked.append(target.name))
    monkeypatch.setattr(service_bench.Bench, "soak", lambda _, target: asked.append(target.name))
    monkeypatch.setattr(service, "ServiceReport", lambda **_: None)
    plan = Plan(rounds=1, kill=True, soak_s=600.0)
    service.bench_service(Setting(tiny_onnx, 2), ["plain", "distill", "distill_raw"], plan)
    assert asked == ["distill", "distill"]


def test_ratios_are_taken_within_a_round():
    """The machine is half as fast in the second round: 3 and 3 times, not 1.5 to 6."""
    rounds = [
        [sample("plain", [1.0] * 20), sample("distill", [1.0] * 60)],
        [sample("distill", [1.0] * 30), sample("plain", [1.0] * 10)],
    ]
    assert ratios(rounds) == {"s": {"distill over plain": 3.0}}
    rows = {row.target: row for row in rows_of(rounds)}
    assert rows["distill"].rounds_per_s == (30.0, 15.0)  # answers in 2 s
    assert rows["distill"].requests_per_s == 22.5
    assert rows["plain"].rss_bytes == 3 * MEBIBYTE


def test_of_a_killed_worker():
    errors = Counter({"closed": 3, "refused": 2, "500": 1})
    row = kill_row("distill", "s", Outcome(answered=9, errors=errors, silent=4), 3, 2)
    assert (row.answered, row.closed, row.refused, row.other, row.silent) == (9, 3, 2, 1, 4)


def test_slope_of_memory():
    assert slope_per_s([(0.0, 5.0), (10.0, 25.0), (20.0, 45.0)]) == pytest.approx(2.0)
    assert slope_per_s([(0.0, 5.0)]) == 0.0


def test_a_run_with_the_plain_handler(tiny_onnx, monkeypatch):
    """Bare rates, start, closed and open loop, soak; tables and Markdown of it."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    monkeypatch.setattr(service_bench, "SIZES", (Size("tiny", 2000, 64, 48),))
    monkeypatch.setattr(service_pictures, "TILES", 4)
    plan = Plan(rounds=1, seconds=0.3, warm_up_s=0.1, clients=4, shares=(0.5,))
    setting = Setting(tiny_onnx, workers=1)
    report = service.bench_service(setting, ["plain"], plan, progress=Progress(quiet=True))
    (row,) = report.rows
    assert (row.target, row.size, row.failed, row.silent, row.busy) == ("plain", "tiny", 0, 0, 0)
    assert row.requests_per_s > 0
    assert row.rss_bytes > 20 * MEBIBYTE
    assert [step.answered_percent for step in row.steps] == [100.0]
    assert report.bare["tiny"].keys() == BARE.keys()
    assert "distill over plain" not in report.ratios.get("tiny", {})
    text = markdown(report)
    assert "| tiny | plain |" in text
    assert len(list(tables(report))) == 4
    json.dumps(report.to_json())


@pytest.mark.slow
def test_a_worker_killed_under_load_is_silent_about_nothing(tiny_onnx, monkeypatch):
    pytest.importorskip("uvicorn")
    monkeypatch.setattr(service_bench, "SIZES", (Size("tiny", 2000, 64, 48),))
    monkeypatch.setattr(service_pictures, "TILES", 4)
    plan = Plan(rounds=1, seconds=1.0, clients=4, shares=(), kill=True, soak_s=2.0)
    setting = Setting(tiny_onnx, workers=2)
    report = service.bench_service(setting, ["plain_workers"], plan, progress=Progress(quiet=True))
    (kill,) = report.kills
    assert kill.silent == 0
    assert kill.answered > 0
    assert kill.other == 0


def test_an_unknown_service_is_told_before_anything_starts(tiny_onnx):
    with pytest.raises(UserError, match="distill_raw"):
        service.bench_service(Setting(tiny_onnx, 1), ["plane"], Plan())


def test_mistakes_of_the_command_line_are_one_line(tiny_onnx, tmp_path, capsys):
    assert service.main([str(tmp_path / "missing.onnx")]) == 2
    assert service.main([str(tiny_onnx), "--targets", "plane"]) == 2
    assert service.main([str(tiny_onnx), "--targets", "litserve"]) == 2
    assert service.main([str(tiny_onnx), "--rounds", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("error: ") for line in lines)


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(UserError):
        service_pictures.tiles_of(tmp_path)
