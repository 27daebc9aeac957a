"""Seeds and controls of a run, and what its results say of them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from distill.config import Recipe
from distill.errors import UserError
from distill.files import amend_manifest, read_json, verify_manifest, write_json
from distill.pipeline.compare import of_seeds
from distill.pipeline.runs import controls, needed, pairs, student_runs, students_by_seed
from distill.pipeline.verdicts import keep
from distill.recipe import load_recipe
from distill.report.results import ResultRow, Results
from distill.report.table import question_lines, results_table

TEACHER = {"name": "teacher", "model": {"name": "baseline_cnn"}}
WORDS = ("helps", "hurts", "no effect", "inconclusive")


def recipe(*students, **options) -> Recipe:
    runs = [{"model": {"name": "compact"}, **student} for student in students]
    table = {"teachers": [TEACHER], "students": runs, **options}
    return Recipe.model_validate_json(json.dumps(table))


def taught(name, strategy="vanilla", **options):
    return {"name": name, "strategy": {"name": strategy}, **options}


def names(of: Recipe) -> list[str]:
    return [run.name for run in student_runs(of)]


def test_without_seeds_there_is_no_control():
    plain = recipe(taught("a"))
    assert names(plain) == ["a"]
    assert pairs(plain) == {}


def test_each_seed_has_the_student_and_its_control():
    of = recipe(taught("a"), seeds=3, seed=5)
    expected = ["a-alone", "a", "a-alone-seed6", "a-seed6", "a-alone-seed7", "a-seed7"]
    assert names(of) == expected
    assert [of.seed_of(run) for run in student_runs(of)] == [5, 5, 6, 6, 7, 7]
    assert pairs(of) == {
        "a": [("a", "a-alone"), ("a-seed6", "a-alone-seed6"), ("a-seed7", "a-alone-seed7")]
    }


def test_a_student_with_a_seed_of_its_own_has_no_others():
    """Its seed was that of a further one as well: one run counted as two pairs."""
    of = recipe(taught("a", seed=1), seeds=3)
    with pytest.raises(UserError, match="a has a seed of its own"):
        student_runs(of)
    assert names(recipe(taught("a", seed=1), seeds=1)) == ["a-alone-seed1", "a"]


def test_a_student_needs_those_that_it_starts_from_or_is_taught_by():
    of = recipe(taught("a"), taught("b"), taught("c", start="a"), taught("d", teachers=["c"]))
    assert [run.name for run in needed(of.students, ["d"])] == ["a", "c", "d"]
    assert [run.name for run in needed(of.students, ["b"])] == ["b"]


def test_a_control_differs_in_the_teacher_alone():
    of = recipe(taught("a", train={"epochs": 9, "lr": 0.01}, cache={"views": 4}), seeds=1)
    alone, student = student_runs(of)
    assert alone.strategy.name == "supervised"
    assert alone.model == student.model
    assert alone.transfer == student.transfer
    assert alone.train.model_copy(update={"views": "all"}) == student.train
    assert alone.train.views == 4  # it sees the views that the teacher's answers are kept of
    live = recipe(taught("a", cache={"use": False}), seeds=1)
    assert student_runs(live)[0].train.views == "all"
    few = recipe(taught("a", cache={"use": False}, train={"views": 2}), seeds=1)
    assert student_runs(few)[0].train.views == 2


def test_strategies_share_a_control_and_other_students_have_their_own():
    of = recipe(
        taught("a"),
        taught("b", "noisy_teacher"),
        taught("c", train={"epochs": 3}),
        {"name": "d"},
        seeds=1,
    )
    assert names(of) == ["a-alone", "a", "b", "c-alone", "c", "d"]
    assert {name: runs[0][1] for name, runs in pairs(of).items()} == {
        "a": "a-alone",
        "b": "a-alone",
        "c": "c-alone",
    }


def test_a_chain_has_a_chain_of_controls_and_of_seeds():
    of = recipe(
        taught("a"), taught("b", "self_training"), taught("c", start="a", teachers=["a"]), seeds=2
    )
    runs = {run.name: run for run in student_runs(of)}
    assert list(runs)[:5] == ["a-alone", "a", "b-self", "b", "c-alone"]
    assert runs["c-alone"].start == "a-alone"
    assert (runs["c-seed1"].start, runs["c-seed1"].teachers) == ("a-seed1", ("a-seed1",))
    assert runs["c-alone-seed1"].start == "a-alone-seed1"
    assert "b-seed1-self" in runs
    assert all(run.seed == 1 for name, run in runs.items() if "seed1" in name)


def test_kd_lib_has_no_control():
    assert controls(recipe(taught("a", engine="kd_lib")).students) == {}


def test_seeds_are_of_the_recipe_and_names_stay_apart(distill, tmp_path):
    (tmp_path / "two.toml").write_text(
        '[teacher]\nname = "t"\nmodel.name = "baseline_cnn"\n'
        '[[students]]\nname = "a"\nstrategy.name = "vanilla"\nmodel.name = "compact"\n'
        '[[students]]\nname = "a-alone"\nmodel.name = "compact"\n'
    )
    command = (
        "run",
        tmp_path / "two.toml",
        "--data",
        "demo:60",
        "--out",
        tmp_path / "o",
        "--dry-run",
    )
    assert distill(*command)[0] == 0
    status, _, err = distill(*command, "--seeds", 2)
    assert status == 2
    assert "two runs are called 'a-alone'" in err
    status, out, _ = distill(*command, "students.a.name=b", "--seeds", 2)
    assert status == 0, err
    assert "student b-alone-seed1" in out
    assert len(students_by_seed(load_recipe(tmp_path / "two.toml", ["seeds=4"]))) == 4


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """A finished run of two seeds, and the command that made it."""
    from distill import cli

    folder = tmp_path_factory.mktemp("seeded")
    (folder / "recipe.toml").write_text(
        "haar = 'off'\nrandom_forest.trees = 2\n[data]\nsize = 16\n"
        '[teacher]\nname = "teacher"\nmodel = {name = "baseline_cnn", options = {width = [8, 8], '
        "hidden = 8}}\ntrain = {epochs = 1, batch_size = 16}\n"
        '[student]\nname = "student"\nstrategy.name = "vanilla"\ncache.views = 1\n'
        'model = {name = "compact", options = {width = [16, 64], depth = [1, 1], head_width = 0}}\n'
        "train = {epochs = 2, batch_size = 16}\n"
    )
    command = ["run", str(folder / "recipe.toml"), "--data", "demo:120", "--out", str(folder / "o")]
    command += ["--seeds", "2", "--no-bench", "--device", "cpu", "export.int8_max_drop=100"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["distill", *command])
        cli.main()
    return folder / "o", command


def test_results_have_a_verdict_for_each_question(seeded):
    out, _ = seeded
    results = json.loads((out / "results.json").read_text())
    kinds = {row["name"]: row["kind"] for row in results["rows"]}
    assert kinds["student-alone"] == kinds["student-alone-seed1"] == "control"
    assert kinds["student"] == kinds["student-seed1"] == "student"
    assert {row["name"]: row.get("seed") for row in results["rows"]}["student-seed1"] == 1
    verdict = results["verdict"]
    asked = [question["question"] for question in verdict["questions"]]
    assert asked[:2] == ["student over student-alone", "student.int8.onnx over teacher"]
    assert "student.int8.onnx over student.fp32.onnx" in asked
    first = verdict["questions"][0]
    assert first == {key: verdict[key] for key in first}  # the first stands at the top, too
    assert first["word"] in WORDS
    assert first["seeds"] == 2
    assert first["margin_points"] == 0.5
    low, high = first["interval_points"]
    assert low <= first["difference_points"] <= high
    tests = {row["name"]: row["test"] for row in results["rows"]}
    ends = ("", "-seed1")
    gaps = [tests[f"student{n}"]["top1"] - tests[f"student-alone{n}"]["top1"] for n in ends]
    assert first["difference_points"] == pytest.approx(np.mean(gaps))
    assert first["test_images"] == tests["student"]["n"]
    assert verdict["shipped"]


def test_runs_keep_which_answers_are_right(seeded):
    out, _ = seeded
    rows = json.loads((out / "results.json").read_text())["rows"]
    for row in rows:
        folder = out / ("teachers" if row["kind"] == "teacher" else "students") / row["name"]
        if folder.is_dir():
            right = np.load(folder / "test_correct.npy")
            assert right.dtype == bool
            assert 100 * right.mean() == pytest.approx(row["test"]["top1"])
            assert "test_correct.npy" in verify_manifest(folder)


def test_the_verdict_is_told_and_on_the_card(seeded, distill):
    out, command = seeded
    status, told, err = distill(*command)
    assert status == 0, err
    assert err.count("done before, kept") == 6  # the export, too
    (line,) = [line for line in told.splitlines() if line.startswith("student over student-alone")]
    assert "2 pairs of seeds" in line
    assert "± of seeds" in told
    assert "student-seed1" not in told.partition("recall")[0]
    card = (out / "README.md").read_text()
    assert "## Verdict" in card
    assert line in card.replace("\\", "")


def test_control_and_student_begin_alike(seeded):
    """The same random start, order and views: the teacher is what is left."""
    out, _ = seeded
    known = {}
    for name in ("student", "student-alone", "student-seed1"):
        config = json.loads((out / "students" / name / "config.json").read_text())
        known[name] = config["seed"]
    assert known == {"student": 0, "student-alone": 0, "student-seed1": 1}


@pytest.mark.parametrize(("word", "said"), [("helps", "better"), ("no effect", "as good")])
def test_lines_of_files_say_how_good_they_are(word, said):
    asked = {
        "question": "student.int8.onnx over teacher",
        "word": word,
        "difference_points": -0.123,
        "interval_points": [-0.3, 0.1],
        "seeds": 1,
        "test_images": 2000,
        "groups": 1990,
    }
    (line,) = question_lines([asked])
    assert line == (
        f"student.int8.onnx over teacher: {said}, -0.12 points (-0.30 to +0.10) on 2,000 images "
        "in 1,990 groups"
    )
    open_one = {**asked, "word": "inconclusive", "needs": {"images": 8000, "seeds": 7}}
    (line,) = question_lines([open_one])
    assert line.endswith("; about 8,000 test images or 7 pairs of seeds would decide")


def test_a_teacher_that_is_no_better_is_told_of_before_it_teaches(seeded, distill, tmp_path):
    _, command = seeded
    again = [*command, "teacher.train.lr=1e-9", "student.train.epochs=3"]
    again[again.index("--out") + 1] = str(tmp_path / "o")
    status, _, err = distill(*again)
    assert status == 0
    lines = err.splitlines()
    warned = [i for i, line in enumerate(lines) if "has little to teach" in line]
    assert len(warned) == 1
    assert "student-alone has" in lines[warned[0]]
    assert warned[0] < next(
        i for i, line in enumerate(lines) if line.startswith("student: epoch 1")
    )


def test_runs_are_compared_by_their_seeds(seeded, distill):
    out, _ = seeded
    students = out / "students"
    status, told, err = distill(
        "compare", students / "student-alone", students / "student", "--json"
    )
    assert status == 0, err
    (found,) = json.loads(told.splitlines()[-1])["questions"]
    verdict = json.loads((out / "results.json").read_text())["verdict"]["questions"][0]
    ours = ("word", "difference_points", "interval_points", "seeds", "test_images", "groups")
    assert {key: found[key] for key in ours} == {key: verdict[key] for key in ours}
    status, told, _ = distill("compare", out / "teachers/teacher", students / "student", "--json")
    (found,) = json.loads(told.splitlines()[-1])["questions"]
    assert found["question"].endswith("students/student over " + str(out / "teachers/teacher"))
    status, told, _ = distill("compare", students / "student", students / "student", "--json")
    (found,) = json.loads(told.splitlines()[-1])["questions"]
    assert (found["seeds"], found["difference_points"]) == (2, 0.0)


@pytest.fixture
def kept(seeded, tmp_path):
    """A copy of the students, in which a run's `config.json` or answers may change."""
    shutil.copytree(seeded[0], tmp_path / "o")
    return tmp_path / "o" / "students"


def change(folder, parts):
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {**config, **parts})
    amend_manifest(folder, folder / "config.json")


def test_runs_of_an_earlier_recipe_are_not_pairs(kept):
    """They have its names and options, and saw other images."""
    assert set(of_seeds(kept / "student")) == {0, 1}
    other = read_json(kept / "student-seed1" / "config.json")
    for parts in (
        {"views": {**other["views"], "rotate_degrees": 44.0}},
        {"data": {"input_spec": {**other["data"]["input_spec"], "height": 9}}},
        {"inputs": {**other["inputs"], "splits_sha256": "0" * 64}},
    ):
        change(kept / "student-seed1", parts)
        assert set(of_seeds(kept / "student")) == {0}
        change(kept / "student-seed1", other)
    change(kept / "student", {"seed": 1})  # as if this one had been named: no other takes its place
    assert of_seeds(kept / "student")[1].run.folder == kept / "student"


def test_runs_that_nobody_scored_are_not_pairs(kept):
    listed = read_json(kept / "student-seed1" / "manifest.json")
    del listed["test_correct.npy"]
    write_json(kept / "student-seed1" / "manifest.json", listed)
    assert set(of_seeds(kept / "student")) == {0}


def test_a_run_whose_experiment_has_other_images_now_is_refused(kept):
    inputs = read_json(kept / "student" / "config.json")["inputs"]
    change(kept / "student", {"inputs": {**inputs, "splits_sha256": "0" * 64}})
    with pytest.raises(UserError, match="other splits since"):
        of_seeds(kept / "student")


def test_answers_that_an_interrupted_report_left_are_listed_by_the_next(kept):
    place = kept / "student" / "test_correct.npy"
    listed = read_json(place.parent / "manifest.json")
    del listed[place.name]
    write_json(place.parent / "manifest.json", listed)
    keep(place, np.load(place))
    assert place.name in verify_manifest(place.parent)


def test_the_table_has_the_mean_of_seeds(seeded):
    out, _ = seeded
    stored = json.loads((out / "results.json").read_text())
    rows = tuple(ResultRow.model_validate(row) for row in stored["rows"])
    table = results_table(Results(rows=rows, verdict={}, env={}))
    cells = dict(
        zip(
            *(
                list(column.cells)
                for column in table.columns
                if column.header in ("name", "top1 %")
            ),
            strict=True,
        )
    )
    of = [row.test["top1"] for row in rows if row.name in ("student", "student-seed1")]
    assert float(cells["student"]) == pytest.approx(np.mean(of), abs=0.006)
    assert "mean" in str(table.title)


def test_what_cannot_be_compared_says_why(seeded, distill, tmp_path):
    out, command = seeded
    run = out / "students" / "student"
    status, _, err = distill("compare", run)
    assert (status, "name two" in err) == (2, True)
    status, _, err = distill("compare", run, out)
    assert (status, "not a finished run" in err) == (2, True)
    other = list(command)
    other[other.index("--out") + 1] = str(tmp_path / "o")
    other[other.index("--data") + 1] = "demo:132"
    assert distill(*other)[0] == 0
    status, _, err = distill("compare", run, tmp_path / "o" / "students" / "student")
    assert status == 2
    assert "tested on other images" in err
