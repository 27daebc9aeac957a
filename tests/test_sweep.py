"""`distill sweep`: what is read of the command line, which trials follow, what comes of them."""

import json
from dataclasses import replace

import pytest
from small_recipe import RECIPE

from distill.config import TrainConfig
from distill.errors import UserError
from distill.files import read_json
from distill.recipe import load_recipe
from distill.search.sweep import Sweep, plan_sweep
from distill.search.trials import Axis, Optuna, chosen_method, random_trials, read_axes


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(RECIPE)
    return file


def sweep_of(mine, *wishes, method="auto", trials=None, seeds=1) -> Sweep:
    axes, overrides = read_axes(wishes)
    loaded = load_recipe(mine, overrides)
    return Sweep(loaded, axes, chosen_method(method, axes, trials), trials, seeds)


def test_lists_ranges_and_overrides_are_told_apart():
    wishes = ("student.train.lr=1e-4..1e-2", "train.epochs=5..9", "data.size=64")
    axes, overrides = read_axes((*wishes, "model.options.width=[8,16],[16, 32]"))
    assert axes == (
        Axis("train.lr", low=1e-4, high=1e-2),
        Axis("train.epochs", low=5, high=9, is_integer=True),
        Axis("model.options.width", ("[8,16]", "[16, 32]")),
    )
    assert overrides == ["data.size=64"]
    assert [axis.is_logarithmic for axis in axes] == [True, False, False]


def test_numbers_of_a_range_lie_in_it_evenly():
    """Logarithms of 1e-4 to 1e-2 have their middle at 1e-3; whole numbers have both ends."""
    rates, epochs = Axis("lr", low=1e-4, high=1e-2), Axis("e", low=5, high=9, is_integer=True)
    assert [rates.at(share) for share in (0.0, 0.5)] == ["0.0001", "0.001"]
    assert float(rates.at(0.999999)) <= 1e-2
    assert [epochs.at(share) for share in (0.0, 0.2, 0.5, 0.999)] == ["5", "6", "7", "9"]
    assert Axis("w", low=-1.0, high=1.0).at(0.75) == "0.5"


def test_a_grid_has_every_combination_and_the_student_itself_once(mine):
    found = plan_sweep(sweep_of(mine, "strategy.temperature=1,4", "train.lr=1e-3,1e-2"))
    assert [
        run.name for run in found.students
    ] == [  # of temperature 4 and rate 1e-3 is the student
        "small",
        "small-strategy.temperature-1-train.lr-1e-3",
        "small-strategy.temperature-1-train.lr-1e-2",
        "small-strategy.temperature-4-train.lr-1e-2",
    ]
    changed = found.students[1]
    before, after = found.students[0].model_dump(), changed.model_dump()
    assert {key for key in before if before[key] != after[key]} == {"name", "strategy"}


def test_each_trial_has_every_seed(mine):
    found = plan_sweep(sweep_of(mine, "train.lr=1e-2,3e-2", seeds=3))
    assert [(run.name, run.seed) for run in found.students[3:]] == [
        ("small-seed1", 1),
        ("small-train.lr-1e-2-seed1", 1),
        ("small-train.lr-3e-2-seed1", 1),
        ("small-seed2", 2),
        ("small-train.lr-1e-2-seed2", 2),
        ("small-train.lr-3e-2-seed2", 2),
    ]


def test_a_trial_has_of_each_seed_what_it_starts_from(mine):
    """Of further seeds nobody trained the first student, and one of a like name was tried too."""
    mine.write_text(
        RECIPE.replace("[student]", "[[students]]")
        + '\n[[students]]\nname = "small-again"\nstart = "small"\nmodel.name = "compact"\n'
    )
    sweep = sweep_of(mine, "train.lr=1e-3,1e-2", seeds=2)
    of_seeds = [[run.name for run in runs] for runs in sweep.by_seed([sweep.base])]
    assert of_seeds == [["small", "small-again"], ["small-seed1", "small-again-seed1"]]
    assert sweep.by_seed([sweep.base])[1][1].start == "small-seed1"


def test_more_random_trials_keep_those_there_are(mine):
    wishes = ("train.lr=1e-4..1e-2", "strategy.temperature=1,2,8")
    few, many = (list(sweep_of(mine, *wishes, trials=n).drawn()) for n in (4, 9))
    assert many[:4] == few
    assert len({tuple(settings.items()) for settings in many}) == 9
    assert few != list(sweep_of(mine, *wishes, "seed=1", trials=4).drawn())


def test_random_trials_end_where_there_are_no_more():
    axes = (Axis("a", ("1", "2")), Axis("b", ("x", "y", "z")))
    found = list(random_trials(axes, 0))
    assert len(found) == 6
    assert len({tuple(settings.items()) for settings in found}) == 6


def test_optuna_asks_the_same_after_it_was_stopped():
    """Also of values that are written with three digits, and of trials that were given up."""
    pytest.importorskip("optuna")
    axes = (Axis("lr", low=1e-4, high=1e-1), Axis("t", ("1", "2")), Axis("n", low=1, high=9))
    study, asked = Optuna(axes, 3), []
    for number in range(16):
        settings = study.ask()
        score = 50.0 + 1000 * float(settings["lr"])
        pruned = any(study.is_hopeless(epoch, score - 9 + epoch) for epoch in range(5))
        study.tell(None if number == 2 else score, pruned)
        asked.append((settings, score, pruned))
    assert any(pruned for _, _, pruned in asked)
    for stopped in range(5, 16):
        again = Optuna(axes, 3)
        for number, (settings, score, pruned) in enumerate(asked[:stopped]):
            by_epoch = {epoch: score - 9 + epoch for epoch in range(5)}
            again.remember(settings, by_epoch, None if number == 2 else score, pruned)
        assert again.ask() == asked[stopped][0]


def test_a_recipe_without_students_has_nothing_to_sweep(mine):
    sweep = sweep_of(mine, "train.lr=1e-3,1e-2")
    none = sweep.recipe.model_copy(update={"students": ()})
    with pytest.raises(UserError, match="no student"):
        plan_sweep(replace(sweep, recipe=none))


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (("train.lr=1e-3",), "nothing is swept"),
        (("train.lr",), "cannot read"),
        (("train.lr=,",), "cannot read"),
        (("train.lr=1,2", "student.train.lr=3,4"), "train.lr is swept twice"),
        (("train.lr=1e-2..1e-3",), "the lower first"),
        (("data.size=32,64",), "a sweep is of the student"),
        (("teacher.train.lr=1,2",), "a sweep is of the student"),
        (("seed=1,2",), "write student.seed"),
        (("colour=1,2",), "no option 'colour'"),
        (("train.colour=1,2",), "colour"),
        (("strategy.temperature=1,-1",), "temperature"),
        (("train.lr=1,many",), "train.lr"),
        (("strategy.temperature=4,4.0",), "every trial is the recipe's student"),
    ],
)
def test_wishes_that_make_no_sense(mine, wishes, words):
    with pytest.raises(UserError, match=words):
        plan_sweep(sweep_of(mine, *wishes))


def test_a_range_has_no_grid_and_a_grid_has_an_end(mine):
    with pytest.raises(UserError, match="no end of values"):
        sweep_of(mine, "train.lr=1e-4..1e-2", method="grid")
    many = ",".join(str(number) for number in range(1, 40))
    with pytest.raises(UserError, match="a grid of more than"):
        plan_sweep(sweep_of(mine, f"train.epochs={many}", f"train.batch_size={many}"))


def test_long_names_are_cut_and_stay_apart(mine):
    sweep = sweep_of(mine, "train.lr=1e-3,2e-3")
    long = {"model.options.width": "[" + ",".join(["16"] * 30) + "]", "train.lr": "1e-3"}
    names = {sweep.student({**long, "train.lr": lr}).name for lr in ("1e-3", "2e-3")}
    assert len(names) == 2
    assert max(map(len, names)) <= 90


def test_the_command_keeps_trials_and_makes_the_best_a_recipe(tmp_path, mine, photos, distill):
    """A loss that stops being finite ends a trial, not the sweep; nothing is trained twice."""
    out = tmp_path / "out"
    named = f"export.student={load_recipe(mine).students[0].name}"  # which the best replaces
    options = ("train.lr=1e-2,1e30", named, "--seeds", 2)
    command = ("sweep", mine, "--data", photos, "--out", out, *options)
    status, said, err = distill(*command, "--json")
    assert status == 0, err
    record = read_json(out / "sweep.json")
    assert [(row["settings"], row["state"]) for row in record["rows"]] == [
        ({"train.lr": "1e-2"}, "done"),
        ({"train.lr": "1e30"}, "failed"),
    ]
    done, failed = record["rows"]
    base = sum(record["base_scores"]) / 2
    assert done["verdict"]["difference_points"] == pytest.approx(sum(done["scores"]) / 2 - base)
    assert (done["verdict"]["seeds"], "verdict" in failed) == (2, False)
    shown = json.loads(said.splitlines()[-1])
    assert shown["rows"] == record["rows"]
    best = load_recipe(out / "best.toml")
    wins = sum(done["scores"]) / 2 > base
    assert best.students[0].train.lr == (1e-2 if wins else TrainConfig().lr)
    assert not list(out.rglob("test_correct.npy"))
    before = {place: place.stat().st_mtime_ns for place in out.rglob("best.safetensors")}
    status, said, err = distill(*command)
    assert status == 0, err
    assert "as it is" in said
    after = {place: place.stat().st_mtime_ns for place in out.rglob("best.safetensors")}
    assert {p: t for p, t in after.items() if "1e30" not in str(p)} == {
        p: t for p, t in before.items() if "1e30" not in str(p)
    }


def test_hopeless_trials_are_given_up_and_stay_so(tmp_path, mine, photos, distill, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setattr(Optuna, "is_hopeless", lambda self, epoch, score: self._trial.number == 1)
    out = tmp_path / "out"
    command = ("sweep", mine, "--data", photos, "--out", out, "train.lr=1e-4..1e-2")
    command += ("--search", "optuna", "--trials")
    assert distill(*command, 2)[0] == 0
    first = read_json(out / "sweep.json")["rows"]
    assert [row["state"] for row in first] == ["done", "pruned"]
    assert len(first[0]["by_epoch"]), "what the pruner goes by"
    status, _, err = distill(*command, 3)
    assert status == 0
    rows = read_json(out / "sweep.json")["rows"]
    assert rows[:2] == [{**first[0], "verdict": rows[0]["verdict"]}, first[1]]
    assert "trial 3 of 3" in err
    assert "trial 2 of 3" not in err


def test_a_damaged_record_is_told_in_a_line(tmp_path, mine, photos, distill):
    pytest.importorskip("optuna")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.json").write_text('{"rows": 3}')
    options = ("train.lr=1e-4..1e-2", "--search", "optuna", "--trials", 1)
    status, _, err = distill("sweep", mine, "--data", photos, "--out", tmp_path / "out", *options)
    assert status == 2
    assert "sweep.json" in err.splitlines()[-1]
