"""What `distill ablate` does: a recipe's student with one thing changed at a time.

What each change is worth is judged on validation, as one chooses by it; the test split is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distill.config import Recipe, RunConfig
from distill.errors import UserError
from distill.files import JsonModel, amend_manifest, write_json
from distill.pipeline.experiment import Experiment
from distill.pipeline.runs import controls, needed, students_by_seed
from distill.pipeline.variants import answers_by_seed, changed_run, effect_of, variant_name
from distill.scoring.comparison import Difference, Verdict, check_groups, judge
from distill.scoring.tasks import task_of
from distill.strategies import make_strategy

FILE = "ablation.json"
# What is changed, by a short name or by its key in the recipe, and what else is tried of it.
OPTIONS = {
    "views": ("cache.views", ("1", "4", "all")),
    "temperature": ("strategy.temperature", ("1.0", "2.0", "4.0", "8.0")),
    "weight": ("strategy.kd_weight", ("0.5", "0.9", "1.0")),
    "epochs": ("train.epochs", ("half", "double")),
    "pretrained": ("model.pretrained", ("false",)),
    "unlabelled": ("unlabelled", ("false",)),
}
NOBODY, PLAIN = "nobody", "plain"
FACTORS = ("teacher", *OPTIONS)


@dataclass(frozen=True)
class Variant:
    """A student that differs from the recipe's in one thing.

    Attributes:
        teacher: That it needs beside the recipe's.
    """

    factor: str
    value: str
    student: RunConfig
    teacher: RunConfig | None = None


class Worth(JsonModel):
    """What a change does: the score of the changed student, and the verdict on it over the base.

    Attributes:
        scores: Of each seed, top-1 accuracy or mean average precision on validation, in percent.
    """

    factor: str
    value: str
    run: str
    scores: tuple[float, ...]
    verdict: Verdict


@dataclass(frozen=True)
class Ablation:
    """A recipe's last student and its variants, as one recipe of a student each and per seed."""

    recipe: Recipe
    base: RunConfig
    variants: tuple[Variant, ...]
    seeds: int


def make_ablation(
    recipe: Recipe, vary: Sequence[str], seeds: int, has_unlabelled: bool
) -> Ablation:
    """The ablation of a recipe's last student.

    Args:
        vary: Names of `FACTORS` or keys of the student, with `=` and values or without; none for
            all of `FACTORS` that the recipe has.
        has_unlabelled: There are images without labels.

    Raises:
        UserError: No student that somebody teaches, no such factor, or a value that does not fit.
    """
    if not recipe.students:
        raise UserError("the recipe has no student", "distill ablate", "add one")
    *earlier, base = recipe.students
    if make_strategy(base.strategy).taught_by == "nobody":
        what = f"nobody teaches {base.name}, so that there is little to change"
        raise UserError(what, "strategy", "take one that has a teacher, such as vanilla")
    asked: dict[str, str] = {} if vary else dict.fromkeys(FACTORS, "")
    for factor, _, values in (wish.partition("=") for wish in vary):
        asked[factor] = ",".join(filter(None, (asked.get(factor, ""), values)))
    variants: list[Variant] = []
    for factor, values in asked.items():
        if factor not in FACTORS and "." not in factor:
            hint = f"choose of {', '.join(FACTORS)}, or name a key such as train.lr=1e-3,1e-2"
            raise UserError(f"no factor {factor!r}", "--vary", hint)
        tried = tuple(value.strip() for value in values.split(",") if value.strip())
        found = list(_variants(recipe, base, factor, tried, has_unlabelled))
        if vary and not found:
            raise UserError(f"there is nothing else to try of {factor}", "--vary", "name values")
        variants += found
    students = (*earlier, base, *(variant.student for variant in variants))
    seeded = recipe.model_copy(update={"students": students, "seeds": seeds})
    teachers = {t.name: t for v in variants if (t := v.teacher) is not None}
    judged = slice(len(earlier), None)
    runs = [
        run
        for of_seed in students_by_seed(seeded)
        for run in needed(of_seed, [run.name for run in of_seed[judged]])
    ]
    update = {
        "students": tuple(runs),
        "teachers": (*recipe.teachers, *teachers.values()),
        "seeds": 0,
    }
    return Ablation(recipe.model_copy(update=update), base, tuple(variants), seeds)


def _variants(
    recipe: Recipe, base: RunConfig, factor: str, values: Sequence[str], has_unlabelled: bool
) -> Iterator[Variant]:
    if factor == "teacher":
        yield from _of_teachers(recipe, base, values)
        return
    key, usual = OPTIONS.get(factor, (factor, ()))
    options = {f"strategy.{name}" for name in type(make_strategy(base.strategy)).model_fields}
    if key.startswith("strategy.") and key not in options and not values:
        return
    if (key == "unlabelled" and not has_unlabelled) or (
        key == "model.pretrained" and not base.model.pretrained and not values
    ):
        return
    known = [effect_of(base)]
    for value in values or usual:
        shown = {"half": max(1, base.train.epochs // 2), "double": 2 * base.train.epochs}.get(value)
        text = str(shown) if key == "train.epochs" and shown else value
        changed = changed_run(base, (f"{key}={text}",), variant_name(base, factor, text))
        if (effect := effect_of(changed)) not in known:
            known.append(effect)
            yield Variant(factor, text, changed)


def _of_teachers(recipe: Recipe, base: RunConfig, values: Sequence[str]) -> Iterator[Variant]:
    """No teacher; each of several by itself; and the first one from a random start."""
    names = [teacher.name for teacher in recipe.teachers]
    others = [name for name in names if len(names) > 1 and base.teachers != (name,)]
    plain = next((t for t in recipe.teachers if t.model.pretrained), None)
    for value in values or (NOBODY, *others, *([PLAIN] if plain else [])):
        name = variant_name(base, "teacher", value)
        if value == NOBODY:
            alone = controls([base])
            if base.name in alone:  # KD_Lib's loops have none
                yield Variant("teacher", value, alone[base.name].model_copy(update={"name": name}))
        elif value == PLAIN and plain is not None:
            model = plain.model.model_copy(update={"pretrained": False})
            teacher = plain.model_copy(update={"name": f"{plain.name}-plain", "model": model})
            student = base.model_copy(update={"name": name, "teachers": (teacher.name,)})
            yield Variant("teacher", f"{plain.name} from a random start", student, teacher)
        elif value in names:
            student = base.model_copy(update={"name": name, "teachers": (value,)})
            yield Variant("teacher", value, student)
        else:
            known = ", ".join((NOBODY, *names, *([PLAIN] if plain else [])))
            raise UserError(f"no teacher {value!r}", "--vary", f"choose of {known}")


def judge_ablation(experiment: Experiment, ablation: Ablation) -> list[Worth]:
    """What each change is worth on validation; `ablation.json` keeps it with the experiment.

    Args:
        experiment: Of the ablation's recipe, all runs finished.
    """
    data, variants = experiment.data, ablation.variants
    groups = data.groups_of("val")
    check_groups(groups, "val")
    base, base_scores = answers_by_seed(experiment, ablation.base.name, ablation.seeds)
    rights, scores = {}, {}
    for variant in variants:
        rights[variant.student.name], scores[variant.student.name] = answers_by_seed(
            experiment, variant.student.name, ablation.seeds
        )
    over = ablation.base.name
    asked = [(f"{n} over {over}", Difference(right, base, groups)) for n, right in rights.items()]
    found = [
        Worth(
            factor=variant.factor,
            value=variant.value,
            run=variant.student.name,
            scores=tuple(scores[variant.student.name]),
            verdict=verdict,
        )
        for variant, verdict in zip(variants, judge(asked), strict=True)
    ]
    main = task_of(data.task).main_score
    kept = {"base": over, "split": "val", "score": main, "scores": base_scores}
    place = experiment.out / FILE
    write_json(place, {**kept, "rows": [worth.to_json() for worth in found]})
    amend_manifest(experiment.out, place)
    return found
