"""What is done with one service: started, put under load, watched, a worker of it killed.

The generator of the load is a process of its own, see `service_load`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill.benchmarks.machine import usable_cores
from distill.benchmarks.service_load import Load, Outcome
from distill.benchmarks.service_pictures import SIZES, make_pictures, request_of
from distill.benchmarks.service_records import Kill, Picture, Plan, Sample, Soak
from distill.benchmarks.service_rows import kill_row, rate_of, slope_per_s
from distill.benchmarks.service_targets import Running, Setting, Target, running
from distill.errors import RunStopped
from distill.progress import Progress

PICTURES = 4  # different ones of each size
LATE_S = 60.0  # beyond its plan, before a generator is given up
WATCH_S = 5.0  # between two looks at a soaked service's memory
Requests = dict[str, tuple[str, ...]]  # files with requests, by the name of the pictures' size


class Bench:
    """One run: services, pictures, and the plan of what to ask."""

    def __init__(self, setting: Setting, plan: Plan, scratch: Path, progress: Progress) -> None:
        self.setting, self.plan, self.scratch, self.progress = setting, plan, scratch, progress
        self.files: dict[str, list[Path]] = {}
        self.pictures: dict[str, Picture] = {}

    def draw(self, data: Path | None) -> None:
        """Makes the pictures, as files."""
        for size in SIZES:
            made = make_pictures(data, size, PICTURES)
            content, quality = made[0]
            self.pictures[size.name] = Picture(
                num_bytes=len(content), width=size.width, height=size.height, quality=quality
            )
            files = [self.scratch / f"{size.num_bytes}-{i}.jpg" for i in range(PICTURES)]
            for file, (content, _) in zip(files, made, strict=True):
                file.write_bytes(content)
            self.files[size.name] = files

    def requests(self, target: Target) -> Requests:
        """Every picture as this service is asked about it."""
        found = {}
        for name, pictures in self.files.items():
            files = [file.with_suffix(f".{target.name}.http") for file in pictures]
            for file, picture in zip(files, pictures, strict=True):
                file.write_bytes(request_of(picture.read_bytes(), target.path, target.field))
            found[name] = tuple(map(str, files))
        return found

    def bare(self) -> dict[str, dict[str, float]]:
        """Rates without a service, by the name of the pictures' size."""
        found = {}
        for name, files in self.files.items():
            asked = [str(self.plan.seconds), str(usable_cores()), *map(str, files)]
            command = ["distill.benchmarks.service_bare", str(self.setting.model), *asked]
            found[name] = run_module(command)
        return found

    def sample(
        self, target: Target, service: Running, size: str, load: Load, share: float | None
    ) -> Sample:
        """Asks as a load says, and what came of it."""
        before = service.cpu_s()
        outcome = ask(load)
        spent = service.cpu_s() - before
        return Sample(
            target=target.name,
            size=size,
            share=share,
            rate_per_s=load.rate_per_s or None,
            cpu_ms_per_answer=1e3 * spent / outcome.answered if outcome.answered else None,
            start_s=service.start_s,
            memory_bytes=service.memory_bytes(),
            outcome=outcome,
        )

    def measure(self, target: Target, round_: int) -> list[Sample]:
        """One service in one round: the closed loop of each size, then the open ones."""
        samples, plan = [], self.plan
        requests = self.requests(target)
        with running(target, self.setting) as service:
            for size, files in requests.items():
                load = Load(
                    service.port, files, "closed", plan.clients, plan.warm_up_s, seed=round_
                )
                ask(load)
                closed = replace(load, seconds=plan.seconds)
                samples.append(self.sample(target, service, size, closed, None))
                highest = rate_of(samples[-1])
                self.progress.say(f"round {round_ + 1}: {target.name}, {size}: {highest:.1f} /s")
                for share in plan.shares if highest else ():
                    opened = replace(
                        closed,
                        mode="open",
                        rate_per_s=share * highest,
                        connections=2 * plan.clients,
                    )
                    samples.append(self.sample(target, service, size, opened, share))
        return samples

    def kill(self, target: Target) -> Kill:
        """A worker killed in the middle of a closed loop, and what became of the requests."""
        size, files = next(iter(self.requests(target).items()))
        seconds = max(4.0, 2 * self.plan.seconds)
        with running(target, self.setting) as service:
            load = Load(service.port, files, "closed", self.plan.clients, seconds)
            generator = start_load(load)
            time.sleep(seconds / 2)
            victim = service.busiest()
            before = len(service.processes())
            victim.kill()
            outcome = finish_load(generator, load)
            return kill_row(target.name, size, outcome, before, len(service.processes()))

    def soak(self, target: Target) -> Soak:
        """Memory of a service that is asked for long, at 80 % of its highest rate."""
        plan = self.plan
        with running(target, self.setting) as service:
            files = tuple(f for group in self.requests(target).values() for f in group)
            load = Load(service.port, files, "closed", plan.clients, max(2.0, plan.warm_up_s))
            highest = len(ask(load).latencies_ms) / load.seconds
            asked = replace(
                load,
                mode="open",
                rate_per_s=0.8 * highest,
                seconds=plan.soak_s,
                connections=2 * plan.clients,
            )
            generator, start = start_load(asked), time.perf_counter()
            looks: list[tuple[float, int]] = []
            while generator.poll() is None and (now := time.perf_counter() - start) < plan.soak_s:
                looks.append((now, service.memory_bytes()["rss"]))
                time.sleep(min(WATCH_S, plan.soak_s / 10))
            outcome = finish_load(generator, asked)
        memory = [bytes_ for _, bytes_ in looks]
        return Soak(
            target=target.name,
            seconds=plan.soak_s,
            rate_per_s=asked.rate_per_s,
            answered=outcome.answered,
            failed=outcome.errors.total(),
            busy=outcome.busy,
            silent=outcome.silent,
            start_bytes=memory[0],
            middle_bytes=memory[len(memory) // 2],
            end_bytes=memory[-1],
            most_bytes=max(memory),
            second_half_bytes_per_minute=60 * slope_per_s(looks[len(looks) // 2 :]),
        )


def ask(load: Load) -> Outcome:
    """Runs the generator to its end."""
    return finish_load(start_load(load), load)


def start_load(load: Load) -> subprocess.Popen[str]:
    """Starts the generator."""
    command = [sys.executable, "-m", "distill.benchmarks.service_load", json.dumps(asdict(load))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish_load(generator: subprocess.Popen[str], load: Load) -> Outcome:
    """What a generator tells.

    Raises:
        RunStopped: It failed.
    """
    try:
        output, _ = generator.communicate(timeout=load.seconds + load.grace_s + LATE_S)
    except subprocess.TimeoutExpired:
        generator.kill()
        what = "the load generator did not come to an end"
        raise RunStopped(what, hint="repeat the command on a machine with less to do") from None
    if generator.returncode:
        what = f"the load generator failed with status {generator.returncode}"
        raise RunStopped(what, hint="see the lines above")
    table = json.loads(output)
    return Outcome(**table | {"errors": Counter(table["errors"])})


def run_module(command: Sequence[str]) -> Any:
    """The JSON that a module of ours prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        raise RunStopped(f"{command[0]} failed: {last}", hint="start it alone to see all it says")
    return json.loads(done.stdout)
