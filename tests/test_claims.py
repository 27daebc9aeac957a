"""Claims: one worker at a time, whatever clocks say, and a silent one loses its work."""

import json
import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from distill.buckets import Folder
from distill.files import atomic, no_space
from distill.teaching.cache import Shard, TeacherCache
from distill.teaching.cache_build import claimed
from distill.teaching.claims import Claims


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, at: float = 0.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def worker(folder: Path, at: float = 0.0, lease_s: float = 60.0) -> tuple[Claims, Clock]:
    clock = Clock(at)
    return Claims(Folder(folder), lease_s, clock), clock


def test_a_claim_is_one_workers_until_it_is_given_back(tmp_path):
    (one, _), (other, clock) = worker(tmp_path), worker(tmp_path)
    assert one.take("a")
    assert not other.take("a")
    assert other.take("b")
    clock.at = 59.0
    assert not other.take("a")
    one.release("a")
    assert other.take("a")
    other.release("a")
    other.release("b")
    assert list(tmp_path.iterdir()) == []


def test_a_silent_worker_loses_its_claim_by_the_clock_of_whoever_waits(tmp_path):
    """Whose clock is a year ahead; the owner's says nothing at all."""
    (one, _), (other, clock) = worker(tmp_path), worker(tmp_path, at=3e7)
    assert one.take("a")
    assert not other.take("a")  # the first look begins the lease
    clock.at += 59.0
    assert not other.take("a")
    assert one.beat("a", 1)
    clock.at += 59.0
    assert not other.take("a")  # a sign of life begins it anew
    clock.at += 61.0
    assert other.take("a")
    assert not one.beat("a", 2)
    one.release("a")
    assert not one.take("a")
    other.release("a")
    assert list(tmp_path.iterdir()) == []


def test_a_claim_lasts_as_long_as_its_owner_asked_for(tmp_path):
    """A worker with a shorter lease took away the work of all others, again and again."""
    (patient, slow), (hasty, quick) = worker(tmp_path, 0.0, 600.0), worker(tmp_path, 0.0, 10.0)
    assert patient.take("a")
    assert hasty.take("b")
    assert not hasty.take("a")
    assert not patient.take("b")
    quick.at = slow.at = 11.0
    assert not hasty.take("a")
    assert patient.take("b")
    quick.at = 601.0
    assert hasty.take("a")


def test_a_claim_without_content_lasts_as_long_as_whoever_waits_would(tmp_path):
    """Its owner was killed between the two."""
    claims, clock = worker(tmp_path, 0.0, 10.0)
    (tmp_path / "a.0.claim").touch()
    assert not claims.take("a")
    clock.at = 11.0
    assert claims.take("a")


def test_a_disk_that_is_full_ends_the_beating_in_silence(tmp_path, monkeypatch):
    """The thread's traceback was between the lines of the command."""
    died = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    monkeypatch.setattr(Claims, "beat", lambda *arguments: (_ for _ in ()).throw(no_space("here")))
    claims = Claims(Folder(tmp_path), 0.04)
    with claims.held("a") as is_ours:
        time.sleep(0.1)
    assert (is_ours, died) == (True, [])


def test_claims_on_what_is_done_are_cleared(tmp_path):
    """A worker that is killed when it has published leaves a claim that nobody wants."""
    (dead, _), (other, _) = worker(tmp_path), worker(tmp_path)
    assert dead.take("x-a.npy")
    assert dead.take("x-b.npy")
    other.clear("x-", {"x-a.npy"})
    assert [file.name for file in tmp_path.iterdir()] == ["x-b.npy.0.claim"]


def test_many_that_take_over_at_once_are_one(tmp_path):
    for round_ in range(20):
        dead, _ = worker(tmp_path)
        assert dead.take(f"{round_}")
        workers = [worker(tmp_path) for _ in range(8)]
        for claims, clock in workers:
            assert not claims.take(f"{round_}")
            clock.at = 100.0
        start, taken = threading.Barrier(8), []

        def attempt(claims: Claims, name: str, start=start, taken=taken) -> None:
            start.wait()
            if claims.take(name):
                taken.append(claims.owner)

        threads = [threading.Thread(target=attempt, args=(c, f"{round_}")) for c, _ in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        assert json.loads((tmp_path / f"{round_}.1.claim").read_text())["owner"] == taken[0]


def test_work_that_takes_longer_than_a_lease_stays_ours(tmp_path):
    one, other = Claims(Folder(tmp_path), 0.4), Claims(Folder(tmp_path), 0.4)
    with one.held("a") as is_ours:
        assert is_ours
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert not other.take("a")
            time.sleep(0.05)
    assert other.take("a")


def _die(folder: str, ready) -> None:
    claims = Claims(Folder(Path(folder)), 0.5)
    assert claims.take("a")
    ready.set()
    time.sleep(60)


def test_the_claim_of_a_killed_process_is_taken_over(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_die, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(30)
    process.kill()
    process.join()
    claims = Claims(Folder(tmp_path), 0.5)
    assert not claims.take("a")
    time.sleep(0.6)
    assert claims.take("a")


@pytest.fixture
def cache(tmp_path) -> TeacherCache:
    (tmp_path / "cache").mkdir()
    return TeacherCache(tmp_path / "cache", {}, "teacher", 4096 * 6, 3, 0)


def test_workers_share_shards_and_do_each_once(cache, tmp_path):
    todo, done = list(cache.shards([0, 1])), []

    def work() -> None:
        for shard in claimed(cache, todo, Claims(Folder(tmp_path / "claims"), 2.0)):
            done.append(shard)
            time.sleep(0.01)
            cache.write_shard(shard, np.zeros_like(cache.empty_rows(shard.stop - shard.start)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == sorted(todo)
    assert cache.missing([0, 1]) == []
    assert list((tmp_path / "claims").iterdir()) == []


@pytest.mark.parametrize("cut", [1, 4, 5, 1000])
def test_a_shard_that_a_copy_cut_is_done_again_by_one_of_many(cache, tmp_path, cut):
    """Of one that had lost no more than its checksum, all believed that others had published it."""
    for shard in cache.shards([0]):
        cache.write_shard(shard, np.zeros_like(cache.empty_rows(shard.stop - shard.start)))
    file = cache.folder / Shard(0, 0, 4096).file_name
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    todo = [shard for shard in cache.shards([0]) if not cache.is_whole(shard)]
    assert todo == [Shard(0, 0, 4096)]
    for shard in claimed(cache, todo, Claims(Folder(tmp_path / "claims"), 2.0)):
        cache.write_shard(shard, np.zeros_like(cache.empty_rows(4096)))
    assert file.read_bytes() == whole


def test_what_was_published_first_stays(cache):
    """Of a worker that was thought dead, and comes with numbers of other kernels."""
    shard = Shard(0, 0, 4096)
    rows = cache.empty_rows(4096)
    rows[...] = 1.0
    cache.write_shard(shard, rows)
    published = (cache.folder / shard.file_name).read_bytes()
    cache.write_shard(shard, rows * np.float16(2.0))
    assert (cache.folder / shard.file_name).read_bytes() == published
    (cache.folder / shard.file_name).write_bytes(published[:-9])  # damaged: made anew
    cache.write_shard(shard, rows)
    assert (cache.folder / shard.file_name).read_bytes() == published


def test_a_file_that_is_kept_is_whole_where_links_are_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *places: (_ for _ in ()).throw(OSError(95, "no links")))
    with atomic(tmp_path / "a", keep=True) as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a").read_text() == "x"
    assert len(list(tmp_path.iterdir())) == 1
