"""Data behind addresses: read as if they were here, whatever goes wrong on the way."""

import itertools
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from object_store import ObjectStore, serving
from PIL import Image
from small_recipe import RECIPE

from distill.buckets import Bucket
from distill.cli.serve import fetched
from distill.data.sources import open_source
from distill.errors import RunStopped, UserError
from distill.storage import locate, open_place, read_part, stamp
from distill.teaching.claims import Claims

pytest.importorskip("moto.server")
fsspec = pytest.importorskip("fsspec")


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with serving() as store:
        yield store


@pytest.fixture
def store(server, monkeypatch, tmp_path) -> Iterator[ObjectStore]:
    """An empty `s3://bucket`, and nothing kept from before."""
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "DISTILLATE_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)
    if system.exists("bucket"):
        system.rm("bucket", recursive=True)
    system.mkdir("bucket")
    server.seen.clear()
    yield server
    server.fault = lambda request: None


@pytest.fixture(params=["s3", "memory"])
def bucket(request) -> str:
    """An address of each kind of storage."""
    if request.param == "s3":
        request.getfixturevalue("store")
        return "s3://bucket/folder"
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs.clear()
    return "memory://bucket/folder"


def put(folder: Path, address: str) -> None:
    """Everything below a folder, at an address."""
    objects = Bucket(address)
    for file in (file for file in folder.rglob("*") if file.is_file()):
        objects.upload(file, file.relative_to(folder).as_posix())


def packed(folder: Path, out: Path, shards: int) -> Path:
    """The pictures of class folders as WebDataset shards with the names of the classes."""
    out.mkdir(exist_ok=True)
    files = sorted(folder.rglob("*.jpg"))
    for number in range(shards):
        with tarfile.open(out / f"{number:03d}.tar", "w") as tar:
            for file in files[number::shards]:
                key = f"{file.parent.name}-{file.stem}"
                tar.add(file, f"{key}.jpg")
                label = out / "label"
                label.write_text(file.parent.name)
                tar.add(label, f"{key}.txt")
                label.unlink()
    return out


def pictures_of(location: str) -> dict[str, tuple[Any, bytes | Any]]:
    source = open_source(location)
    return {item.name: (item.label, source.read(item)) for item in source.items}


def test_class_folders_behind_an_address(image_folder, bucket) -> None:
    (image_folder / "cat" / ".DS_Store").write_bytes(b"")
    put(image_folder, bucket)
    far, near = open_source(bucket), open_source(str(image_folder))
    assert (far.classes, far.items) == (near.classes, near.items)
    assert pictures_of(bucket) == pictures_of(str(image_folder))
    assert far.root is None


def test_shards_behind_an_address(image_folder, tmp_path, bucket) -> None:
    shards = packed(image_folder, tmp_path / "shards", 3)
    put(shards, bucket)
    for ending in ("", "/{000..002}.tar", "/*.tar"):
        assert pictures_of(f"{bucket}{ending}") == pictures_of(str(shards))
    assert pictures_of(f"wds:{bucket}") == pictures_of(str(shards))


@pytest.mark.parametrize("manifest", ["labels.csv", "metadata.jsonl", "train.parquet"])
def test_tables_behind_an_address(image_folder, tmp_path, bucket, manifest) -> None:
    """Lists of paths, and pictures in Parquet."""
    import pyarrow
    from pyarrow import parquet

    files = sorted(image_folder.rglob("*.jpg"))
    rows = [(file.relative_to(image_folder).as_posix(), file.parent.name) for file in files]
    if manifest.endswith("csv"):
        lines = ["path,label", *(f"{path},{label}" for path, label in rows)]
        (image_folder / manifest).write_text("\n".join(lines))
    elif manifest.endswith("jsonl"):
        lines = [json.dumps({"file_name": path, "label": label}) for path, label in rows]
        (image_folder / manifest).write_text("\n".join(lines))
    else:
        image_folder = tmp_path / "tables"
        image_folder.mkdir()
        pictures = [{"bytes": file.read_bytes(), "path": None} for file in files]
        table = pyarrow.table({"image": pictures, "label": [label for _, label in rows]})
        parquet.write_table(table, image_folder / manifest, row_group_size=3)
    put(image_folder, bucket)
    near = pictures_of(str(image_folder))
    assert pictures_of(bucket) == near
    assert pictures_of(f"{bucket}/{manifest}") == near


def test_a_shard_is_fetched_once_and_its_listing_is_kept(image_folder, tmp_path, store) -> None:
    put(packed(image_folder, tmp_path / "shards", 2), "s3://bucket/shards")
    pictures_of("s3://bucket/shards")
    gets = [request for request in store.seen if request.startswith("GET") and ".tar" in request]
    assert len(gets) == 2
    store.seen.clear()
    open_source("s3://bucket/shards")
    assert not [
        request for request in store.seen if request.startswith("GET") and ".tar" in request
    ]


@pytest.mark.parametrize("kind", ["busy", "slow", "cut", "lost"])
@pytest.mark.parametrize("part", ["GET /bucket/shards/001.tar", "GET /bucket?list-type"])
def test_what_passes_is_waited_for(image_folder, tmp_path, store, kind, part) -> None:
    shards = packed(image_folder, tmp_path / "shards", 2)
    put(shards, "s3://bucket/shards")
    struck = store.once(kind, part)
    assert pictures_of("s3://bucket/shards") == pictures_of(str(shards))
    assert struck


def test_a_copy_that_stays_cut_ends_the_command(image_folder, tmp_path, store) -> None:
    put(packed(image_folder, tmp_path / "shards", 2), "s3://bucket/shards")
    store.once("cut", "GET /bucket/shards/001.tar", times=1000)
    with pytest.raises(RunStopped, match=r"not reached.*repeat the command") as caught:
        open_source("s3://bucket/shards")
    assert "\n" not in str(caught.value)
    store.fault = lambda request: None
    assert len(open_source("s3://bucket/shards").items) == 16


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("s3://nowhere/photos", "no such folder"),
        ("s3://bucket/photos", "no such folder"),
        ("s3://bucket/photos.tar", "no such shard"),
        ("nix://bucket/photos", "nix"),
    ],
)
def test_an_address_of_nothing(store, address, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        open_source(address)
    assert address in str(caught.value)
    assert caught.value.hint


def test_rights_are_missing(image_folder, tmp_path, store) -> None:
    put(packed(image_folder, tmp_path / "shards", 1), "s3://bucket/shards")
    store.once("denied", "GET", times=1000)
    with pytest.raises(UserError, match=r"not allowed.*grant") as caught:
        open_source("s3://bucket/shards")
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_cut_short(image_folder, tmp_path, store) -> None:
    shards = packed(image_folder, tmp_path / "shards", 1)
    content = (shards / "000.tar").read_bytes()
    Bucket("s3://bucket/shards").write("000.tar", content[: len(content) // 2])
    with pytest.raises(UserError, match=r"(cut short|unexpected end).*000\.tar"):
        open_source("s3://bucket/shards")


def test_a_file_that_changed_since(store) -> None:
    objects = Bucket("s3://bucket/x")
    objects.write("a.bin", b"first")
    file = locate("s3://bucket/x/a.bin")
    known = stamp(file)
    objects.write("a.bin", b"other")
    with pytest.raises(UserError, match="changed while it was read"):
        open_place(file, known)


def test_few_parts_are_asked_for_one_by_one_and_many_all_at_once(store) -> None:
    content = bytes(range(256)) * 40
    Bucket("s3://bucket/x").write("a.bin", content)
    file = locate("s3://bucket/x/a.bin")
    known = stamp(file)
    store.seen.clear()
    for start in range(0, 8000, 400):
        assert read_part(file, known, start, 300) == content[start : start + 300]
    assert len([request for request in store.seen if request.startswith("GET")]) == 8 + 1


def test_copies_take_no_more_room_than_they_may(store, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DISTILLATE_KEPT_GB", "0.00003")
    objects = Bucket("s3://bucket/x")
    for number in range(5):
        objects.write(f"{number}.bin", bytes([number]) * 10_000)
        with open_place(locate(f"s3://bucket/x/{number}.bin")) as file:
            assert file.read() == bytes([number]) * 10_000
    kept = [copy for copy in (tmp_path / "home" / "copies").iterdir() if not copy.suffix]
    assert sum(copy.stat().st_size for copy in kept) <= 30_000
    with open_place(locate("s3://bucket/x/0.bin")) as file:  # fetched again
        assert file.read() == bytes(10_000)


def test_an_object_is_made_once(bucket) -> None:
    objects = Bucket(bucket)
    assert objects.create("claims/a", b"mine")
    assert not objects.create("claims/a", b"yours")
    assert objects.read("claims/a") == b"mine"
    assert objects.create("claims/a", b"mine")  # a request that was repeated
    assert list(objects.names("claims/")) == list(objects.names("claims/a")) == ["claims/a"]
    assert not objects.names("claims/b")
    objects.remove("claims/a")
    objects.remove("claims/a")
    assert objects.read("claims/a") is None
    assert objects.names() == {}


@pytest.mark.parametrize("kind", ["busy", "lost", "cut"])
def test_an_answer_that_is_lost_makes_no_second_object(store, kind) -> None:
    objects = Bucket("s3://bucket/x")
    struck = store.once(kind, "PUT /bucket/x/a")
    assert objects.create("a", b"mine")
    assert struck
    assert not objects.create("a", b"yours")


@pytest.fixture
def recipe(tmp_path, image_folder, store) -> Path:
    """A recipe, and its data at `s3://bucket/data`."""
    put(packed(image_folder, tmp_path / "shards", 2), "s3://bucket/data")
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE)
    return file


def weights(folder: Path) -> bytes:
    return (folder / "students" / "small" / "best.safetensors").read_bytes()


def test_another_machine_goes_on_where_one_was_lost(recipe, tmp_path, monkeypatch, distill) -> None:
    """Training is stopped after an epoch; nothing but the bucket is left."""
    shards = tmp_path / "shards"
    for stage in ("teacher", "student"):
        near = ("--data", shards, "--out", tmp_path / "near")
        assert distill(stage, recipe, *near)[0] == 0
    far = ("--data", "s3://bucket/data", "--out", "s3://bucket/runs/mine")
    assert distill("teacher", recipe, *far)[0] == 0
    names = Bucket("s3://bucket/runs/mine").names()
    assert {"teachers/one/manifest.json", "teachers/one/best.safetensors"} <= {*names}
    lost = RuntimeError("the machine is gone")
    monkeypatch.setattr("distill.pipeline.train.PUBLISH_S", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr("distill.training.fit.RunLog.tell", raising_after(1, lost))
        with pytest.raises(RuntimeError, match="gone"):
            distill("student", recipe, *far)
    monkeypatch.setenv("DISTILLATE_HOME", str(tmp_path / "another"))
    status, _, err = distill("student", recipe, *far)
    assert status == 0
    assert err.count("epoch 1/2") == 1  # of the first machine
    (folder,) = (tmp_path / "another" / "runs").iterdir()
    assert weights(folder) == weights(tmp_path / "near")
    assert distill("cache", "verify", "s3://bucket/runs/mine")[0] == 0
    status, out, _ = distill("cache", "info", "s3://bucket/runs/mine")
    assert "2 views in 2 shards" in out


def raising_after(times: int, error: Exception) -> Any:
    """A method that does nothing but the first times, and then raises."""
    calls = []

    def method(self: object, *rest: object) -> None:
        calls.append(self)
        if len(calls) > times:
            raise error

    return method


def test_workers_share_a_bucket_that_fails_now_and_then(
    recipe, tmp_path, store, monkeypatch, distill
) -> None:
    """One is killed in the middle; shards have the bytes that one worker makes alone."""
    for module in ("cache", "cache_identity"):
        monkeypatch.setattr(f"distill.teaching.{module}.SHARD_ROWS", 4)
    near = ("--data", tmp_path / "shards", "--out", tmp_path / "near")
    assert distill("teacher", recipe, *near)[0] == 0
    assert distill("cache", "build", recipe, *near)[0] == 0
    put(tmp_path / "near" / "teachers", "s3://bucket/runs/mine/teachers")
    Bucket("s3://bucket/runs/mine/cache/claims").create("other.0.claim", b"{}")
    strikes = itertools.cycle(["busy", None, None, "cut", None, "lost", None])
    program = "import distill.teaching.cache as cache; cache.SHARD_ROWS = 4\n"
    program += "from distill.cli import main; main()"
    arguments = ["cache", "build", recipe, "--data", "s3://bucket/data"]
    arguments += ["--out", "s3://bucket/runs/mine", "--claim", "--lease-s", "1", "--workers", "1"]

    def worker(name: str) -> subprocess.Popen[str]:
        env = {**os.environ, "DISTILLATE_HOME": str(tmp_path / name), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", program, *map(str, arguments)]
        return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)

    objects = Bucket("s3://bucket/runs/mine/cache")
    first = worker("first")
    while not [name for name in objects.names("logits-") if name.endswith("00000.npy")]:
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.communicate()
    store.fault = lambda request: next(strikes) if "/cache/" in request else None
    workers = [worker("second"), worker("third")]
    said = [process.communicate(timeout=120)[1] for process in workers]
    store.fault = lambda request: None
    assert [process.returncode for process in workers] == [0, 0], said
    (alone,) = (tmp_path / "near" / "cache").glob("logits-*")
    shards = sorted(alone.glob("view-*.npy"))
    assert len(shards) == 2 * 3
    for shard in shards:
        assert objects.read(f"{alone.name}/{shard.name}") == shard.read_bytes()
    assert not objects.names("claims/logits")


def test_a_run_that_another_machine_trains_is_waited_for(
    recipe, store, distill, monkeypatch
) -> None:
    """The other one is gone without a word, and its claim is taken over."""
    monkeypatch.setattr("distill.pipeline.train.Claims", partial(Claims, lease_s=1.0))
    objects = Bucket("s3://bucket/runs/mine/cache/claims")
    content = {"owner": "another", "beat": 0, "lease_s": 1.0}
    objects.write("run-one.0.claim", json.dumps(content).encode())
    out = ("--data", "s3://bucket/data", "--out", "s3://bucket/runs/mine")
    status, _, err = distill("teacher", recipe, *out)
    assert status == 0
    assert "one: another machine trains it, waiting" in err
    assert not objects.names()


def test_a_shipped_file_behind_an_address(
    bucket, tmp_path, monkeypatch, distill, tiny_onnx
) -> None:
    monkeypatch.setenv("DISTILLATE_HOME", str(tmp_path / "home"))
    Bucket(bucket).upload(tiny_onnx, "export/student.fp32.onnx")
    picture = tmp_path / "a.png"
    Image.new("RGB", (32, 32), (200, 30, 30)).save(picture)
    here = distill("predict", tiny_onnx, picture, "--json")
    assert here[0] == 0
    for model in (f"{bucket}/export/student.fp32.onnx", bucket):
        assert distill("predict", model, picture, "--json")[:2] == here[:2]
    status, _, err = distill("predict", f"{bucket}/export/other.onnx", picture)
    assert (status, "nothing there" in err) == (2, True)
    assert fetched(f"m={bucket}/export/student.fp32.onnx").startswith(f"m={tmp_path}")
    assert fetched("m=here.onnx") == "m=here.onnx"


def test_a_run_goes_on_while_its_bucket_is_away(recipe, store, distill, monkeypatch) -> None:
    """What could not be put there after an epoch is put there after the run."""
    monkeypatch.setattr("distill.pipeline.train.PUBLISH_S", 0.0)
    stopped = RunStopped("not reached: nobody answers")
    with monkeypatch.context() as patched:
        patched.setattr("distill.mirror.Mirror.push", raising_after(0, stopped))
        status, _, err = distill(
            "teacher", recipe, "--data", "s3://bucket/data", "--out", "s3://bucket/runs/mine"
        )
    assert "warning: this epoch is kept here alone: not reached" in err
    assert (status, "error: not reached" in err) == (3, True)  # of the end, when all is done
    status, _, err = distill(
        "teacher", recipe, "--data", "s3://bucket/data", "--out", "s3://bucket/runs/mine"
    )
    assert status == 0
    assert "one: done before, kept" in err
    assert "teachers/one/manifest.json" in Bucket("s3://bucket/runs/mine").names()
