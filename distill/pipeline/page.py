"""What `report.html` and `plots/` show of an experiment."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill.files import read_json
from distill.pipeline.experiment import RECIPE, Experiment
from distill.pipeline.runs import all_runs
from distill.pipeline.stored import BenchFile
from distill.report import plots
from distill.report.page import (
    Page,
    Pictures,
    Plot,
    Section,
    Table,
    picture_of,
    plot_of,
    write_page,
)
from distill.report.results import ResultRow, Results
from distill.report.table import finding_lines, main_questions, question_lines, verdict_line
from distill.runtime.predict import Predictor
from distill.scoring.tasks import SINGLE, task_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEEDS = ("matplotlib", "jinja2")
MOST_CLASSES = 100  # rows of the table of classes
MOST_PICTURES = 18  # mistakes, and samples
MOST_FINDINGS = 4  # of a kind
TONES = {"helps": "good", "hurts": "bad"}


def write_report(experiment: Experiment, results: Results, probs: Mapping[str, Any]) -> None:
    """Writes `report.html`, and its plots as `plots/*.png`.

    Args:
        probs: What each row answers on the test split, `(images, classes)`, by its name.
    """
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        how = "pip install 'distillate[report]'"
        experiment.progress.say(f"report.html is left out, it needs {missing[0]}: {how}")
        return
    content = _Content(experiment, results, probs)
    write_page(experiment.out / "report.html", content.page())


@dataclass(frozen=True)
class _Content:
    """The parts of the page."""

    experiment: Experiment
    results: Results
    probs: Mapping[str, Any]

    def page(self) -> Page:
        """All of it, the verdict first."""
        data, verdict = self.experiment.data, self.results.verdict
        counts = ", ".join(f"{data.num_images(s):,} {s}" for s in data.splits)
        subtitle = f"{data.location}: {len(data.classes):,} classes, images: {counts}"
        asked = main_questions(verdict)
        told = zip(question_lines(asked), asked, strict=True)
        lines = [(verdict_line(verdict), "")]
        lines += [(line, TONES.get(question["word"], "")) for line, question in told]
        return Page(
            title=f"{self.experiment.out.resolve().name}: what was learned",
            subtitle=subtitle,
            verdict=lines,
            warnings=self.results.warnings,
            results=self._results(),
            teacher=verdict.get("teacher"),
            sections=[section for section in self._sections() if section],
        )

    @cached_property
    def shown(self) -> dict[str, NDArray[np.float64]]:
        """Answers of the best teacher, the fp32 file and what ships."""
        names = (self.results.verdict.get(k) for k in ("teacher", "shipped"))
        kept = dict.fromkeys((*names, "student.fp32.onnx"))
        return {name: self.probs[name] for name in kept if name and name in self.probs}

    @cached_property
    def truth(self) -> NDArray[np.bool_]:
        """Which labels the test images have."""
        data = self.experiment.data
        return task_of(data.task).truth(data.test.labels, len(data.classes))

    def _results(self) -> Table:
        task = task_of(self.experiment.data.task)
        columns: dict[str, Callable[[ResultRow], str]] = {
            f"{task.main_score} %": lambda row: _cell((row.test or {}).get(task.main_score), 2),
            "macro F1 %": lambda row: _cell((row.test or {}).get("macro_f1"), 2),
            "ECE %": lambda row: _cell((row.test or {}).get("ece"), 2),
            "agrees %": lambda row: _cell(row.agreement_top1 or row.agreement_labels, 2),
            "KL": lambda row: _cell(row.kl_teacher, 3),
            "p50 ms": lambda row: _cell(row.latency_p50_ms, 3),
            "images/s": lambda row: _cell(row.images_per_s, 0),
            "MB": lambda row: _cell(row.size_bytes and row.size_bytes / 1e6, 2),
            "parameters": lambda row: _cell(row.params, 0),
        }
        rows = [
            [row.name, row.kind, row.strategy or "", *(cell(row) for cell in columns.values())]
            for row in self.results.rows
        ]
        heads = ["name", "kind", "strategy", *columns]
        return Table("Results", heads, rows, self.results.verdict.get("shipped"))

    def _plot(self, name: str, figure: Figure | None, alt: str) -> list[Plot]:
        """A plot in `plots/`, for the page; nothing for none."""
        if figure is None:
            return []
        file = self.experiment.out / "plots" / f"{name}.png"
        plots.save(figure, file)
        return [plot_of(file, alt)]

    def _sections(self) -> Iterator[Section | None]:
        yield self._questions()
        yield self._trade()
        yield self._classes()
        yield self._mistakes()
        yield self._confidence()
        yield self._stress()
        yield self._training()
        yield self._views()
        yield self._audit()
        yield self._speed()
        yield self._cost()
        yield self._repeat()

    def _questions(self) -> Section | None:
        asked = self.results.verdict.get("questions", ())
        rows = [
            [
                question["question"],
                question["word"],
                f"{question['difference_points']:+.2f}",
                " to ".join(f"{end:+.2f}" for end in question["interval_points"]),
                f"{question['test_images']:,} in {question['groups']:,}",
                f"{question['seeds']}",
                _cell(question["discordant_percent"], 1),
                f"{question.get('p_holm', question['p']):.2g}",
            ]
            for question in asked
        ]
        heads = ["question", "word", "points", "95 %", "images in groups", "seeds", "differ %", "p"]
        text = "Differences of accuracy on the test split; intervals over groups of images (copies "
        text += "are one) and over seeds. No effect: the interval lies within the margin."
        table = Table("Questions", heads, rows)
        return Section("questions", "Questions", text, tables=[table]) if asked else None

    def _trade(self) -> Section | None:
        main = task_of(self.experiment.data.task).main_score
        figure = plots.results(self.results.rows, main)
        alt = "Accuracy of each model against its latency and its size; the table has the figures."
        made = self._plot("results", figure, alt)
        return Section("trade", "Accuracy against latency and size", plots=made) if made else None

    def _classes(self) -> Section:
        data, tests = self.experiment.data, {r.name: r.test for r in self.results.rows if r.test}
        made: list[Plot] = []
        if data.task == "single" and self.shown:
            figure = plots.confusion(self.shown, data.test.labels, data.classes)
            alt = "Confusion matrices; the table below has each class's recall."
            made = self._plot("confusion", figure, alt)
        names = [name for name in self.shown if name in tests]
        counts = dict(zip(data.classes, data.class_counts("test"), strict=True))
        recall = {name: tests[name]["per_class_recall"] for name in names if tests[name]}
        order = sorted(
            data.classes, key=lambda n: min((r.get(n, 100.0) for r in recall.values()), default=0)
        )
        rows = [
            [name, f"{counts[name]:,}", *(_cell(r.get(name), 1) for r in recall.values())]
            for name in order[:MOST_CLASSES]
        ]
        table = Table("Recall of each class, %", ["class", "test images", *recall], rows)
        left = len(order) - MOST_CLASSES
        text = "Recall of each class in percent, the worst first."
        text += f" {left:,} more are in results.json." if left > 0 else ""
        return Section("classes", "Class by class", text, made, [table])

    def _mistakes(self) -> Section | None:
        """The images that what ships is most sure of and wrong about."""
        data, shipped = self.experiment.data, self.results.verdict.get("shipped", "")
        if data.task != "single" or shipped not in self.probs:
            return None
        probs, labels = self.probs[shipped], data.test.labels
        answers = probs.argmax(axis=1)
        wrong = np.flatnonzero(answers != labels)
        order = wrong[np.argsort(-probs[wrong].max(axis=1), kind="stable")][:MOST_PICTURES]
        if not len(order):
            return Section("mistakes", "Mistakes", "None on the test split.")
        maps = self._maps(shipped, order, answers)
        figures = []
        for place, index in enumerate(order.tolist()):
            pixels = np.asarray(data.test.pixels[index])
            sources = [picture_of(pixels)]
            if maps is not None:
                sources.append(picture_of(plots.heat(pixels, maps[place])))
            taken, truth = data.classes[answers[index]], data.classes[labels[index]]
            sure, fair = 100.0 * probs[index, answers[index]], 100.0 * probs[index, labels[index]]
            caption = f"{truth} ({fair:.0f} %), taken for {taken} ({sure:.0f} %): "
            caption += data.test.names[index]
            figures.append(Pictures(sources, f"{truth}, taken for {taken}", caption))
        text = f"{len(wrong):,} of {len(labels):,} test images; those that {shipped} is surest of, "
        text += (
            "beside what made it so (its class activation map)." if maps is not None else "first."
        )
        return Section("mistakes", "Most confident mistakes", text, figures=figures)

    def _maps(
        self, shipped: str, ids: NDArray[np.int64], answers: NDArray[np.int64]
    ) -> NDArray[np.float32] | None:
        """Activation maps of the answers, None of a file that has none."""
        predictor = Predictor(self.experiment.out / "export" / shipped)
        if "cam" not in [output.name for output in predictor.session.get_outputs()]:
            return None
        pixels = np.ascontiguousarray(self.experiment.data.test.pixels[ids])
        cam = predictor.session.run(["cam"], {"image": pixels})[0]
        kept: NDArray[np.float32] = cam[np.arange(len(ids)), answers[ids]]
        return kept

    def _confidence(self) -> Section | None:
        data = self.experiment.data
        if not self.shown:
            return None
        task = task_of(data.task)
        alt = "Share of right answers over confidence; ECE in the table above is their distance."
        made = self._plot("reliability", plots.reliability(self.shown, self.truth, task), alt)
        if task is SINGLE:
            alt = "Accuracy of the answers if only the most confident are given."
            made += self._plot("coverage", plots.coverage(self.shown, data.test.labels), alt)
        text = "Whether answers are as often right as they are sure, and what is gained by giving "
        text += "only those that are."
        thresholds = self.experiment.out / "plots" / "thresholds.png"
        if thresholds.is_file():
            made.append(plot_of(thresholds, "What thresholds would give on validation."))
        return Section("confidence", "Confidence", text, made)

    def _stress(self) -> Section | None:
        found = self.results.robustness
        if found is None:
            return None
        main = task_of(self.experiment.data.task).main_score
        rows = [
            [row["name"], row["strength"], _cell(row[main], 2), f"{row[main] - found[main]:+.2f}"]
            for row in found["rows"]
        ]
        table = Table("Under stress", ["stress", "strength", f"{main} %", "points"], rows)
        text = (
            f"{found['file']} has {found[main]:.2f} % on {found['n']:,} test images as they are. "
        )
        text += (
            "What it has of the same images after what cameras, messengers and crops do to them."
        )
        return Section("stress", "Under stress", text, tables=[table])

    def _training(self) -> Section:
        runs = {
            c.name: self.experiment.finished(c.name).rows for c in all_runs(self.experiment.recipe)
        }
        main = task_of(self.experiment.data.task).main_score
        alt = "Training loss and validation score of each run by epoch; metrics.jsonl has them."
        made = self._plot("curves", plots.curves(runs, main), alt)
        text = (
            ""
            if len(runs) <= plots.MOST_RUNS
            else f"The first {plots.MOST_RUNS} of {len(runs)} runs."
        )
        return Section("training", "Training", text, made)

    def _views(self) -> Section:
        from distill.report.contact_sheet import contact_sheet

        file = self.experiment.out / "plots" / "views.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        recipe = self.experiment.recipe
        contact_sheet(self.experiment.data, recipe.views, recipe.seed).save(file, format="PNG")
        alt = "Training images of each class, as stored and as networks see them."
        text = "Training images of each class: as they are stored, then as networks saw them."
        return Section("views", "What the networks saw", text, [plot_of(file, alt)])

    def _audit(self) -> Section:
        lines = list(finding_lines(self.experiment.data.findings, most=MOST_FINDINGS))
        text = "" if lines else "Nothing odd was found."
        more = f"distill check {shlex.quote(self.experiment.location)} --out DIR"
        return Section("data", "The data", text, lines=lines, code=more if lines else "")

    def _speed(self) -> Section | None:
        file = self.experiment.out / "bench.json"
        if not file.is_file():
            return None
        bench = read_json(file, BenchFile)
        rows = [
            [
                row["name"],
                row["engine"],
                row.get("scenario", "single_stream"),
                row["clock"],
                f"{row['batch_size']:,}",
                *(_cell(row.get(key), 3) for key in ("latency_p50_ms", "latency_p99_ms")),
                _cell(row.get("images_per_s"), 0),
            ]
            for row in bench["rows"]
        ]
        heads = ["model", "engine", "scenario", "clock", "batch", "p50 ms", "p99 ms", "images/s"]
        env: dict[str, Any] = dict(bench["env"])
        known = ("cpu", "cores_usable", "torch_threads", "cpu_flags", "cpu_busy_percent", "gpu")
        said = ", ".join(
            f"{key.replace('_', ' ')} {env[key]}" for key in known if env.get(key) is not None
        )
        return Section(
            "speed", "Speed", f"Measured on: {said}.", tables=[Table("Speed", heads, rows)]
        )

    def _cost(self) -> Section:
        plan = self.results.plan or {}
        real, expected = plan.get("real_s", {}), plan.get("predicted_s", {})
        rows = [[name, _cell(s, 0), _cell(expected.get(name), 0)] for name, s in real.items()]
        stages = Table("Seconds of each stage", ["stage", "seconds", "predicted"], rows)
        runs = []
        for config in all_runs(self.experiment.recipe):
            epochs = self.experiment.finished(config.name).rows
            spent = sum(row.get("seconds", 0.0) for row in epochs)
            runs.append([config.name, config.model.name, f"{len(epochs):,}", _cell(spent, 0)])
        trained = Table("Seconds of each run", ["run", "network", "epochs", "seconds"], runs)
        return Section("cost", "What it took", tables=[stages, trained])

    def _repeat(self) -> Section:
        out, location = shlex.quote(str(self.experiment.out)), shlex.quote(self.experiment.location)
        shipped = self.results.verdict.get("shipped", "student.fp32.onnx")
        lines = [
            f"distill run {out}/{RECIPE} --data {location} --out ANOTHER",
            f"distill evaluate {out}/export/{shipped} {location} --split test",
            f"distill predict {out}/export/{shipped} PICTURE",
        ]
        return Section("repeat", "To repeat it", code="\n".join(lines))


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
