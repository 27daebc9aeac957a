"""Energy by counters that begin anew, of stages that were measured from end to end."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from distill.files import write_json
from distill.pipeline import clock, energy


def zone(folder: Path, name: str, kind: str, microjoules: int, most: int = 10_000_000) -> Path:
    place = folder / name
    place.mkdir()
    (place / "name").write_text(f"{kind}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    (place / "max_energy_range_uj").write_text(f"{most}\n")
    return place / "energy_uj"


def test_packages_and_memory_count_and_their_parts_do_not(tmp_path, monkeypatch):
    """7 J - 4 J of the package, 1 J of memory that began anew: 0.5 + 10 - 9.5. Cores are inside."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    package = zone(tmp_path, "intel-rapl:0", "package-0", 4_000_000)
    cores = zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 9_500_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 4_000_000)
    (zone(tmp_path, "intel-rapl:1", "package-1", 0)).write_text("not a number")
    with energy.Meter() as meter:
        package.write_text("7000000")
        cores.write_text("3000000")
        memory.write_text("500000")
        assert meter.joules == pytest.approx(4.0)
        memory.write_text("700000")
        assert meter.joules == pytest.approx(4.2)


def test_a_counter_may_begin_anew_several_times_between_two_questions(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "POLL_S", 0.001)
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    with energy.Meter() as meter:
        for microjoules in (6_000_000, 2_000_000, 8_000_000, 4_000_000):  # 6, 12, 18, 24 J
            temporary = tmp_path / "next"
            temporary.write_text(f"{microjoules}")
            temporary.replace(package)
            while meter._last != [microjoules / 1e6]:
                pass
        assert meter.joules == pytest.approx(24.0)


def test_where_nothing_can_be_read_nothing_is_said(tmp_path, monkeypatch, make_experiment):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    experiment = make_experiment(tmp_path / "mine", "single")
    with clock.stage(experiment, "export", ("export",)):
        pass
    assert clock.record(experiment).keys() == {"real_s"}


def test_a_stage_that_was_measured_in_part_has_no_energy(tmp_path, monkeypatch, make_experiment):
    """Such as one begun by a user who may not read the counters."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    experiment = make_experiment(tmp_path / "mine", "single")
    write_json(experiment.out / clock.SECONDS, {"teacher": 5.0})
    for microjoules in (1_000_000, 3_000_000):
        for name in ("teacher", "export"):
            with clock.stage(experiment, name, ("teacher", "export")):
                if name == "export":
                    package.write_text(f"{microjoules}")
    assert clock.record(experiment)["energy_j"] == {"export": 3.0}


def test_a_counter_that_goes_away_leaves_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    zone(tmp_path, "intel-rapl:1", "package-1", 0)
    with energy.Meter() as meter:
        assert meter.joules == 0.0
        package.unlink()
        assert meter.joules is None


def test_gpus_are_asked_by_their_own_names(tmp_path, monkeypatch):
    """A stand-in for NVML, which numbers GPUs otherwise than CUDA: 5,500 mJ - 2,000 mJ."""
    asked, millijoules = [], iter([1_000, 2_000, 5_500])
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(energy.torch.cuda, "device_count", lambda: 1)
    gpu = SimpleNamespace(uuid="1234")
    monkeypatch.setattr(energy.torch.cuda, "get_device_properties", lambda index: gpu)
    with energy.Meter() as meter:
        assert meter.joules == pytest.approx(3.5)
    assert asked == ["GPU-1234"]
