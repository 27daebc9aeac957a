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
(half an hour; `--soak 0 --rounds 1 --seconds 2` for a look).
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from distill.benchmarks.machine import busy_warning, machine, usable_cores
from distill.benchmarks.service_bench import Bench
from distill.benchmarks.service_records import Plan, ServiceReport
from distill.benchmarks.service_report import closing_lines, heading, markdown, tables
from distill.benchmarks.service_rows import OURS, medians, ratios, rows_of
from distill.benchmarks.service_targets import TARGETS, Setting
from distill.environment import environment
from distill.errors import DistillError, UserError
from distill.files import write_json, write_text
from distill.progress import Progress
from distill.recipe import check_table
from distill.report.table import show
from distill.runtime.predict import Predictor
from distill.runtime.shipped import shipped_file

SEED = 0
INTERRUPTED = 130


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
    if "litserve" in names and setting.litserve is None:
        raise UserError("LitServe is nowhere", "--litserve", "name the Python that has it")
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
        kills = [bench.kill(target) for target in targets if plan.kill and target.kill]
        ours = [target for target in targets if target.name.startswith(OURS)]
        soaks = [bench.soak(target) for target in ours[:1] if plan.soak_s]
    return ServiceReport(
        rows=rows_of(rounds),
        bare=medians(bare),
        ratios=ratios(rounds),
        kills=tuple(kills),
        soaks=tuple(soaks),
        pictures=bench.pictures,
        plan=plan,
        warnings=(warning,) if warning else (),
        env={
            **environment(),
            **found,
            "workers": setting.workers,
            "model": setting.model.name,
            "model_bytes": setting.model.stat().st_size,
        },
    )


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
            shipped_file(options.model).resolve(),
            options.workers,
            options.litserve,
            tuple(options.serve_options.split()),
        )
        Predictor(setting.model)  # a file that is none of ours is told before anything starts
        asked = {"rounds": options.rounds, "seconds": options.seconds, "clients": options.clients}
        asked |= {"kill": options.kill, "soak_s": options.soak}
        plan = check_table(Plan, asked, "the load test")
        report = bench_service(setting, names, plan, options.data)
    except KeyboardInterrupt:
        return INTERRUPTED
    except DistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(heading(report))
    for table in tables(report):
        show(table)
    print("\n".join(closing_lines(report)))
    if options.out:
        write_json(options.out, report.to_json())
        write_text(options.out.with_suffix(".md"), markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
