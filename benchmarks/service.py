"""Requests per second of `distill serve`, of a plain handler and of LitServe with the same file.

Claim: `distill serve` answers at least twice the requests of either opponent in the same run; at 80
% of its highest rate 99 % of answers come within 50 ms; no accepted request is lost in silence.
Conditions: one machine, so the generator (`service_load`, a process of its own) takes its share of
the cores, which is told; loopback; one picture per request, sent as a form's field unless the
target says otherwise; every service is started anew in every round, rounds are in a random order,
and ratios are taken within a round. `closed` loops of 50 clients find the highest rate, `open` ones
at shares of it the latencies, counted from when a request was due. LitServe runs in an environment
of its own, with the same Python packages for what both need. The bare rates have no service at all.
Command: on a quiet machine, where `build/litserve` has `litserve python-multipart` and `-e .`:
`python -m distill.benchmarks.service MODEL.onnx --data ../shared/data/masks/test --litserve
build/litserve/bin/python --kill --soak 600 --out benchmarks/results/service-DATE.json`
(25 minutes; `--soak 0` and `--rounds 1 --seconds 2` for a look).
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill.benchmarks.machine import busy_warning, machine, usable_cores
from distill.benchmarks.service_load import Load, Outcome
from distill.benchmarks.service_pictures import SIZES, make_pictures, request_of
from distill.benchmarks.service_records import Kill, Picture, Plan, Sample, ServiceReport, Soak
from distill.benchmarks.service_report import closing_lines, heading, markdown, tables
from distill.benchmarks.service_rows import (
    kill_row,
    medians,
    rate_of,
    ratios,
    rows_of,
    slope_per_s,
)
from distill.benchmarks.service_targets import TARGETS, Running, Setting, Target, running
from distill.environment import environment
from distill.errors import DistillError, RunStopped, UserError
from distill.files import atomic, write_json
from distill.progress import Progress
from distill.report.table import show
from distill.runtime.predict import Predictor
from distill.runtime.shipped import shipped_file

PICTURES = 4  # different ones of each size
SEED = 0
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
            target=target.name, size=size, share=share, rate_per_s=load.rate_per_s or None,
            cpu_ms_per_answer=1e3 * spent / outcome.answered if outcome.answered else None,
            start_s=service.start_s, memory_bytes=service.memory_bytes(),
            outcome=outcome,
        )  # fmt: skip

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
            target=target.name, seconds=plan.soak_s, rate_per_s=asked.rate_per_s,
            answered=outcome.answered, failed=outcome.errors.total(), busy=outcome.busy,
            silent=outcome.silent, start_bytes=memory[0], middle_bytes=memory[len(memory) // 2],
            end_bytes=memory[-1], most_bytes=max(memory),
            second_half_bytes_per_minute=60 * slope_per_s(looks[len(looks) // 2 :]),
        )  # fmt: skip


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
    output, _ = generator.communicate(timeout=load.seconds + load.grace_s + 60)
    if generator.returncode:
        raise RunStopped(f"the load generator failed with status {generator.returncode}")
    table = json.loads(output)
    return Outcome(**table | {"errors": Counter(table["errors"])})


def run_module(command: Sequence[str]) -> Any:
    """The JSON that a module of ours prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    if done.returncode:
        raise RunStopped(f"{command[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def bench_service(
    setting: Setting,
    names: Sequence[str],
    plan: Plan,
    data: Path | None = None,
    progress: Progress | None = None,
) -> ServiceReport:
    """Puts every service under load in every round.

    Raises:
        UserError: A service is not known.
        RunStopped: One did not start, or the generator failed.
    """
    if unknown := [name for name in names if name not in TARGETS]:
        raise UserError(f"unknown {unknown[0]!r}", "--targets", f"of {', '.join(TARGETS)}")
    targets, progress = [TARGETS[name] for name in names], progress or Progress()
    warning = busy_warning((found := machine())["cpu_busy_percent"])
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(setting, plan, Path(scratch), progress)
        bench.draw(data)
        rounds, bare, shuffle = [], [], random.Random(SEED).shuffle
        for round_ in range(plan.rounds):
            order = list(targets)
            shuffle(order)
            bare.append(bench.bare())
            rounds.append([s for target in order for s in bench.measure(target, round_)])
        kills = [bench.kill(t) for t in targets if plan.kill and t.name != "plain"]
        soaks = [bench.soak(t) for t in targets if plan.soak_s and t.name.startswith("distill")][:1]
    return ServiceReport(
        rows=rows_of(rounds), bare=medians(bare), ratios=ratios(rounds), kills=tuple(kills),
        soaks=tuple(soaks), pictures=bench.pictures, plan=plan,
        warnings=(warning,) if warning else (),
        env={**environment(), **found, "workers": setting.workers, "model": setting.model.name,
             "model_bytes": setting.model.stat().st_size},
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """Runs the load test; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m distill.benchmarks.service")
    parser.add_argument("model", type=Path, help="a shipped ONNX file, or an experiment")
    parser.add_argument("--data", type=Path, help="photographs to make the pictures of")
    parser.add_argument("--targets", default="", help=f"of {','.join(TARGETS)}; all by default")
    parser.add_argument("--litserve", type=Path, help="Python of an environment with LitServe")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="of each service")
    parser.add_argument("--serve-options", default="", help="of distill serve, as one argument")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--seconds", type=float, default=Plan().seconds, help="of one loop")
    parser.add_argument("--clients", type=int, default=Plan().clients, help="of a closed loop")
    parser.add_argument("--kill", action="store_true", help="a worker under load, in the end")
    parser.add_argument("--soak", type=float, default=0.0, help="seconds, in the end")
    parser.add_argument("--out", type=Path, help="FILE.json; FILE.md goes beside it")
    options = parser.parse_args(arguments)
    names = options.targets.split(",") if options.targets else list(TARGETS)
    if not options.litserve and not options.targets:
        names.remove("litserve")
        print("left out: litserve, name the Python of an environment that has it: --litserve")
    try:
        setting = Setting(
            shipped_file(options.model).resolve(), options.workers, options.litserve,
            tuple(options.serve_options.split()),
        )  # fmt: skip
        Predictor(setting.model)  # a file that is none of ours is told before anything starts
        plan = Plan(
            rounds=options.rounds, seconds=options.seconds, clients=options.clients,
            kill=options.kill, soak_s=options.soak,
        )  # fmt: skip
        report = bench_service(setting, names, plan, options.data)
    except DistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(heading(report))
    for table in tables(report):
        show(table)
    print("\n".join(closing_lines(report)))
    if options.out:
        write_json(options.out, report.to_json())
        with atomic(options.out.with_suffix(".md")) as temporary:
            temporary.write_text(markdown(report), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
