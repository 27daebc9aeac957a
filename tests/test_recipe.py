"""Recipes: merging, links, overrides, and one line for every mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.config import Recipe, RunConfig, StrategyConfig
from distill.errors import RunStopped, UserError, alike, did_you_mean
from distill.overrides import merge
from distill.recipe import check_table, find_recipe, load_recipe, write_toml
from distill.registry import check_options, find_module, names_in
from distill.strategies import make_strategy
from distill.strategies.vanilla import Strategy as Vanilla

REPOSITORY = Path(__file__).resolve().parents[1]
SHIPPED = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for folder in ("students", "teachers")
    for path in (REPOSITORY / folder).glob("*.toml")
)
TWO = """
seed = 3
[teacher]
train.epochs = 5
[[teachers]]
model.name = "timm/resnet18"
[[teachers]]
model.name = "torchvision/densenet121"
train.lr = 0.01
[student]
model.name = "compact"
strategy = {name = "vanilla", temperature = 3.0}
train = {epochs = 7, batch_size = 32}
[[students]]
[[students]]
name = "short"
train.epochs = 2
[[students]]
strategy.name = "noisy_teacher"
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_recipe(text: str) -> Path:
        file = tmp_path / "recipe.toml"
        file.write_text(text, "utf-8")
        return file

    return write_recipe


def refused(path: Path | str, *words: str, overrides: list[str] | None = None) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def run(recipe: Recipe, name: str) -> RunConfig:
    return next(r for r in (*recipe.teachers, *recipe.students) if r.name == name)


def test_a_single_table_is_the_only_run(write: Write) -> None:
    """Named as its model, without the tag of its weights."""
    for model in ("timm/resnet18", "timm/resnet18.a1_in1k"):
        recipe = load_recipe(write(f'[teacher]\nmodel.name = "{model}"\n'))
        assert [teacher.name for teacher in recipe.teachers] == ["resnet18"]
        assert recipe.students == ()


def test_a_single_table_is_the_base_of_a_list(write: Write) -> None:
    """Of nothing else where another name replaces it: its options are those of its own strategy,
    and would be unknown to another."""
    recipe = load_recipe(write(TWO))
    assert recipe.seed == 3
    assert [t.name for t in recipe.teachers] == ["resnet18", "densenet121"]
    assert [s.name for s in recipe.students] == [
        "compact-vanilla",
        "short",
        "compact-noisy_teacher",
    ]
    assert [t.train.epochs for t in recipe.teachers] == [5, 5]
    assert run(recipe, "densenet121").train.lr == 0.01
    assert run(recipe, "resnet18").train.lr == 1e-3
    assert run(recipe, "short").train.epochs == 2
    assert run(recipe, "short").train.batch_size == 32
    assert run(recipe, "short").strategy.options == {"temperature": 3.0}
    assert run(recipe, "compact-noisy_teacher").strategy.options == {}


def test_merge() -> None:
    base = {"a": 1, "model": {"name": "x", "options": {"p": 1, "q": 2}}, "list": [1, 2]}
    same = merge(base, {"model": {"options": {"q": 3}}, "list": [9], "b": 5})
    assert same == {
        "a": 1,
        "b": 5,
        "list": [9],
        "model": {"name": "x", "options": {"p": 1, "q": 3}},
    }
    renamed = merge(base, {"model": {"name": "y"}})
    assert renamed["model"] == {"name": "y"}
    assert merge(base, {"model": {"name": "x", "size": 3}})["model"]["options"] == {"p": 1, "q": 2}
    assert base["model"] == {"name": "x", "options": {"p": 1, "q": 2}}


def test_an_override_of_one_run_leaves_the_others(write: Write) -> None:
    """They shared the table of `[teacher]`, and all had what one was given."""
    file = write(
        """
        [teacher]
        train = { epochs = 10, lr = 0.1 }
        [[teachers]]
        name = "a"
        model.name = "basic_cnn"
        [[teachers]]
        name = "b"
        model.name = "basic_cnn"
        """,
    )
    one, other = load_recipe(file, ["teachers.a.train.epochs=2"]).teachers
    assert (one.train.epochs, other.train.epochs) == (2, 10)


def test_a_link_puts_another_recipe_beneath(write: Write, tmp_path: Path) -> None:
    (tmp_path / "teachers").mkdir()
    (tmp_path / "teachers" / "base.toml").write_text(
        '[teacher]\nmodel = {name = "timm/resnet18", pretrained = "w/r.safetensors"}\n'
        "train = {epochs = 9, lr = 0.5}\n"
    )
    recipe = load_recipe(
        write('[[teachers]]\nrecipe = "teachers/base.toml"\nname = "mine"\ntrain.lr = 0.25\n')
    )
    (teacher,) = recipe.teachers
    assert (teacher.name, teacher.train.epochs, teacher.train.lr) == ("mine", 9, 0.25)
    # A path is relative to the recipe that it is written in.
    assert teacher.model.pretrained == str(tmp_path / "teachers" / "w" / "r.safetensors")
    # Links chain.
    (tmp_path / "a.toml").write_text('[student]\nmodel.name = "compact"\ntrain.epochs = 9\n')
    (tmp_path / "b.toml").write_text('[student]\nrecipe = "a.toml"\ntrain.lr = 0.5\n')
    (student,) = load_recipe(write('[student]\nrecipe = "b.toml"\ntrain.batch_size = 8\n')).students
    assert (student.train.epochs, student.train.lr, student.train.batch_size) == (9, 0.5, 8)


def test_a_link_must_lead_to_one_run_of_that_role(write: Write, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(TWO)
    refused(write('[teacher]\nrecipe = "two.toml"\n'), "'two.toml'", "2 teachers")
    (tmp_path / "none.toml").write_text("seed = 1\n")
    refused(write('[student]\nrecipe = "none.toml"\n'), "'none.toml'", "0 students")
    refused(write('[student]\nrecipe = "gone.toml"\n'), "gone.toml")


def test_pretrained_is_relative_to_the_recipe(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write('[teacher]\nmodel = {name = "timm/resnet18", pretrained = "w.safetensors"}\n')
    monkeypatch.chdir("/")
    assert load_recipe(file).teachers[0].model.pretrained == str(tmp_path / "w.safetensors")
    absolute = write('[teacher]\nmodel = {name = "timm/resnet18", pretrained = "/w/x.pth"}\n')
    assert load_recipe(absolute).teachers[0].model.pretrained == "/w/x.pth"
    library = write('[teacher]\nmodel = {name = "timm/resnet18", pretrained = true}\n')
    assert load_recipe(library).teachers[0].model.pretrained is True


OVERRIDES: list[tuple[str, Callable[[Recipe], Any], Any]] = [
    ("seed=9", lambda r: r.seed, 9),
    ("data.size=64", lambda r: r.data.size, 64),
    ("data.resize=shortest", lambda r: r.data.resize, "shortest"),
    ('data.resize="shortest"', lambda r: r.data.resize, "shortest"),
    (" data.size = 64 ", lambda r: r.data.size, 64),
    ("views.crop_scale=[0.5, 0.75]", lambda r: r.views.crop_scale, (0.5, 0.75)),
    ("bench.batch_sizes=[1]", lambda r: r.bench.batch_sizes, (1,)),
    ("student.train.epochs=4", lambda r: [s.train.epochs for s in r.students], [4, 4, 4]),
    ("teacher.train.lr=1e-4", lambda r: [t.train.lr for t in r.teachers], [1e-4, 1e-4]),
    ("students.short.train.epochs=4", lambda r: [s.train.epochs for s in r.students], [7, 4, 7]),
    ("teachers.resnet18.train.epochs=1", lambda r: [t.train.epochs for t in r.teachers], [1, 5]),
    (
        "student.model.options.width=[8, 16]",
        lambda r: r.students[0].model.options,
        {"width": [8, 16]},
    ),
    ("students.short.name=brief", lambda r: r.students[1].name, "brief"),
    (
        "student.train.class_weights={cat = 3.0, dog = 1.0}",
        lambda r: r.students[0].train.class_weights,
        {"cat": 3.0, "dog": 1.0},
    ),
    (
        "student.strategy.temperature=2",
        lambda r: r.students[0].strategy.options,
        {"temperature": 2},
    ),
    ("student.teachers=['resnet18']", lambda r: r.students[0].teachers, ("resnet18",)),
]


def test_overrides(write: Write) -> None:
    file = write(TWO)
    plain = load_recipe(file)
    for override, read, value in OVERRIDES:
        assert read(plain) != value, override
        assert read(load_recipe(file, [override])) == value, override
    # The last one wins.
    assert load_recipe(file, ["seed=1", "data.size=64", "seed=2"]).seed == 2


def test_options_of_another_strategy_or_model_go_with_it(write: Write) -> None:
    """They were refused as options that nobody had set."""
    file = write(
        "[student]\nmodel = {name = 'compact', options = {width = [8, 8]}}\n"
        "strategy = {name = 'vanilla', temperature = 3.0}\n"
    )
    (student,) = load_recipe(file, ["student.strategy.name=supervised"]).students
    assert student.strategy.options == {}
    given = ["student.strategy.kd_weight=0.5", "student.strategy.name=noisy_teacher"]
    (student,) = load_recipe(file, given).students  # in either order
    assert student.strategy.options == {"kd_weight": 0.5}
    (student,) = load_recipe(file, ["student.model.name=timm/resnet18"]).students
    assert student.model.options == {}
    (student,) = load_recipe(file, ["student.strategy.name=vanilla"]).students
    assert student.strategy.options == {"temperature": 3.0}


def test_an_override_that_cannot_be(write: Write) -> None:
    file = write(TWO)
    for override, *words in (
        ("seed", "'seed'"),
        ("=3", "'=3'"),
        ("data..size=3", "'data..size=3'"),
        ("data.sice=64", "'data.sice'"),
        ("dta.size=64", "'dta'"),
        ("data.size=big", "data.size", "'big'"),
        ("data.size=8", "data.size", "16", "got 8"),
        ("data.size=64.5", "data.size"),
        ("seed.x=1", "'seed'"),
        ("students.nobody.train.lr=1", "'nobody'", "short"),
        ("student.train.lr=-1", "lr", "-1"),
        ("student.train.optimizer=adam", "optimizer", "adamw", "'adam'"),
        ("students.short=3", "students"),
        ("student.train.select=accuracy", "select", "macro_f1", "'accuracy'"),
        ("student.train.epochs=true", "epochs"),
        ("views.crop_scale=[1.0, 0.5]", "crop_scale"),
        # What a whole table's validator finds names the option as it is typed, too.
        ("views.blur_size=4", "views.blur_size: 4 is even"),
        ("export.student=zz", "export.student: 'zz'"),
        ("export.thresholds=f1", "export.thresholds: 'f1'", "data.task=single"),
        ("students.short.start=xx", "students.short.start: 'xx'"),
        ("students.short.start=best", "students.short.start: 'best'"),
        ("students.short.teachers=['xx']", "students.short.teachers: 'xx'"),
        ("teacher.name=a", "teachers.a.name: two runs"),
        # Values of the wrong kind are no traceback.
        ("student=3",),
        ("teacher=compact",),
        ("seed=2024-01-01",),
    ):
        refused(file, *words, overrides=[override])


def test_an_override_of_a_role_that_has_no_run(write: Write) -> None:
    file = write("[student]\nmodel.name = 'compact'\n")
    refused(file, "no teacher", "teacher.trian.epochs", overrides=["teacher.trian.epochs=5"])


def test_write_toml_is_read_back_to_the_same(write: Write, tmp_path: Path) -> None:
    overrides = [
        "student.train.class_weights={cat = 3.0, 'odd \"name\" ü' = 1e-5}",
        "data.crop_pct=0.875",
        "student.model.options.width=[8, 16]",
        "student.start=resnet18",
    ]
    recipe = load_recipe(write(TWO), overrides)
    again = tmp_path / "again.toml"
    again.write_text(write_toml(recipe), "utf-8")
    assert load_recipe(again) == recipe
    assert load_recipe(write(write_toml(Recipe()))) == load_recipe(write("")) == Recipe()


def test_a_mistake_is_one_line_that_names_it(write: Write) -> None:
    for text, *words in (
        ("sed = 3\n", "'sed'"),
        ("[data]\nsise = 64\n", "'data.sise'"),
        ('[data]\nsize = "big"\n', "data.size", "'big'"),
        ("[data]\nsize = 64.0\n", "data.size"),
        ("data = 3\n", "data", "got 3"),
        ("[student]\ntrain.epochs = 3\n", "student.model"),
        ('[student]\nmodel.name = "compact"\ntrain.lrr = 1.0\n', "student.train.lrr"),
        ('[student]\nmodel.name = "compact"\nname = "a b"\n', "student.name", "'a b'"),
        ("[data\n", "TOML", "line 1"),
        ("seed = 1\nseed = 2\n", "TOML"),
        ('[export]\nstudent = "nobody"\n', "'nobody'", "export.student"),
    ):
        refused(write(text), *words, "recipe.toml")
    refused(write("[students]\nx = 1\n"), "[[students]]", "[student]")


def test_a_value_of_the_wrong_kind_is_no_traceback(write: Write) -> None:
    for text in (
        '[student]\nmodel = "compact"\n',
        '[student]\nmodel.name = "compact"\nstrategy = "vanilla"\n',
        "teacher = 3\n",
        "teachers = [3]\n",
        "[student]\nrecipe = 3\n",
        "seed = 2024-01-01\n",
        '[student]\nrecipe = "recipe.toml"\n',
    ):
        refused(write(text))


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    file = tmp_path / "binary.toml"
    file.write_bytes(b"\xff\xfe\x00")
    refused(file, "TOML", "binary.toml")
    refused(tmp_path / "gone.toml", "gone.toml")
    refused(tmp_path, tmp_path.name)
    refused("students/gone.toml", "students/gone.toml")


def test_names_of_runs_must_differ_and_resolve(write: Write) -> None:
    student = '[[students]]\nmodel.name = "compact"\n'
    refused(write(student * 2), "'compact-supervised'", "name")
    refused(write(student + 'start = "later"\n'), "student.start: 'later'")
    refused(write(student + 'teachers = ["ghost"]\n'), "student.teachers: 'ghost'")
    later = '[[students]]\nname = "a"\nstart = "b"\nmodel.name = "compact"\n'
    refused(write(later + later.replace('"a"', '"b"').replace('start = "b"\n', "")), "'b'")
    # A student may teach a later one.
    text = '[student]\nmodel.name = "compact"\n[[students]]\nname = "assistant"\n'
    text += '[[students]]\nname = "small"\nteachers = ["assistant"]\nstart = "assistant"\n'
    assert load_recipe(write(text)).students[1].teachers == ("assistant",)


def test_options_cannot_be_changed_after_checking() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 3


def test_smoke_shrinks_every_run(write: Write) -> None:
    file = write(TWO + "[random_forest]\nsize = 8\n[bench]\nopponents = ['timm/resnet18']\n")
    whole, small = load_recipe(file), load_recipe(file, smoke=True)
    for before, after in zip(
        (*whole.teachers, *whole.students), (*small.teachers, *small.students), strict=True
    ):
        assert after.train.epochs == 2
        assert after.train.batch_size == 16
        assert after.train.warmup_epochs == 0
        assert after.model.name == before.model.name
        assert after.strategy == before.strategy
    assert small.random_forest.trees == 8
    assert small.random_forest.size == 8
    assert small.bench.seconds < 0.1
    assert small.bench.opponents == ()
    assert small.export.min_accuracy == 0  # two epochs reach no accuracy that one would ask for
    assert small.export.int8_qad_epochs == 1
    assert (small.data, small.views, small.seed) == (whole.data, whole.views, whole.seed)


def test_smoke_downloads_nothing_but_keeps_local_weights(write: Write) -> None:
    file = write(
        '[teacher]\ntransfer.freeze_epochs = 3\n[[teachers]]\nname = "a"\n'
        'model = {name = "timm/resnet18", pretrained = true}\n[[teachers]]\nname = "b"\n'
        'model = {name = "timm/resnet18", pretrained = "/w/x.safetensors"}\n'
    )
    first, second = load_recipe(file, smoke=True).teachers
    assert first.model.pretrained is False
    assert second.model.pretrained == "/w/x.safetensors"
    assert first.transfer.freeze_epochs == 1


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads(name: str) -> None:
    for smoke in (False, True):
        recipe = load_recipe(REPOSITORY / name, smoke=smoke)
        assert recipe.teachers or recipe.students
        assert Recipe.model_validate_json(json.dumps(recipe.model_dump(mode="json"))) == recipe


def test_a_shipped_recipe_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SHIPPED
    monkeypatch.chdir(tmp_path)
    assert load_recipe(SHIPPED[0]) == load_recipe(REPOSITORY / SHIPPED[0])
    own = tmp_path / SHIPPED[0]
    own.parent.mkdir()
    own.write_text("seed = 77\n")  # the user's own file of that name comes first
    assert find_recipe(SHIPPED[0]) == Path(SHIPPED[0])
    assert load_recipe(SHIPPED[0]).seed == 77


def test_every_plug_in_folder_is_listed() -> None:
    assert {"vanilla", "supervised"} <= set(names_in("strategies", "Strategy"))
    assert {"compact", "mask_cnn", "basic_cnn"} <= set(names_in("students"))
    assert {"timm", "torchvision"} <= set(names_in("teachers"))
    assert {"onnx_fp32", "triton"} <= set(names_in("export", "Target"))
    assert "golden" not in names_in("export", "Target")  # what targets share is none


def test_targets_are_names_or_tables_and_are_written_out_and_read_back(tmp_path) -> None:
    given = 'export.targets=["hub", {name="triton", max_batch_size=8}]'
    recipe = load_recipe(SHIPPED[0], [given])
    assert [target.name for target in recipe.export.targets] == ["hub", "triton"]
    assert recipe.export.targets[1].options == {"max_batch_size": 8}
    (tmp_path / "again.toml").write_text(write_toml(recipe))
    assert load_recipe(tmp_path / "again.toml") == recipe


def test_an_unknown_plug_in_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'compakt'") as caught:
        find_module("students", "compakt", "model.name", "build")
    assert "mask_cnn" in str(caught.value)
    assert "model.name" in str(caught.value)
    for name in ("./mine.py", ".mine", "os.path"):  # no plug-ins, and no traceback
        with pytest.raises(UserError):
            make_strategy(StrategyConfig(name=name))


def test_a_failure_is_one_sentence_of_the_parts_that_it_has() -> None:
    for parts, line in (
        (
            ("no such file", "a.jpg", "correct the path"),
            "no such file: a.jpg. Fix: correct the path.",
        ),
        (("no such file", "a.jpg"), "no such file: a.jpg."),
        (("no limit", None, "give one"), "no limit. Fix: give one."),
        (("no limit",), "no limit."),
        # What others say ends as they like, and a question keeps its mark.
        (("404 Not Found.", "hf:x/y", "log in."), "404 Not Found: hf:x/y. Fix: log in."),
        (("no option 'x'", None, "did you mean y?"), "no option 'x'. Fix: did you mean y?"),
    ):
        assert str(UserError(*parts)) == str(RunStopped(*parts)) == line


def test_what_was_meant_is_found_in_a_whole_name_or_in_its_last_part() -> None:
    known = ["train.epochs", "train.lr", "views.flip"]
    assert alike("train.epcohs", known) == alike("epohcs", known) == ["train.epochs"]
    assert alike("sise", ["size", "scale"]) == ["size"]
    assert alike("momentum", known) == []
    assert did_you_mean(["a", "b"]) == "did you mean a or b?"
    assert did_you_mean([]) is None


def test_options_of_a_plug_in_are_strict() -> None:
    assert check_options(Vanilla, {"temperature": 2}, "here").temperature == 2.0
    for options, key in (({"temperature": "2"}, "temperature"), ({"alpha": 1}, "'alpha'")):
        with pytest.raises(UserError, match=key) as caught:
            check_options(Vanilla, options, "here")
        assert "kd_weight" in str(caught.value)
    with pytest.raises(UserError, match="did you mean temperature"):
        check_options(Vanilla, {"temprature": 2.0}, "here")


def test_names_of_any_letters_come_back(tmp_path: Path) -> None:
    """An emoji in a class's weight made a file that no reader of TOML takes."""
    weights = {"🙂 mask": 2.0, "a\\b": 1.0, 'x"y': 3.0, "é\x7f": 4.0, "plain": 1.5}
    run = {"name": "s", "model": {"name": "compact"}, "train": {"class_weights": weights}}
    recipe = check_table(Recipe, {"students": [run]}, "test")
    (tmp_path / "recipe.toml").write_text(write_toml(recipe), "utf-8")
    assert load_recipe(tmp_path / "recipe.toml").students[0].train.class_weights == weights


def test_a_mark_at_the_beginning_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert load_recipe(tmp_path / "recipe.toml").seed == 3


def test_a_run_is_called_by_the_model_that_it_is_given(tmp_path: Path) -> None:
    """It was still called `lite0`, whatever `teacher.model.name` made of it."""
    (tmp_path / "recipe.toml").write_text(
        """
        [[teachers]]
        name = "lite0"
        model.name = "timm/tf_efficientnet_lite0"
        [[students]]
        name = "one"
        model.name = "compact"
        strategy.name = "vanilla"
        teachers = ["best", "lite0"]
        [[students]]
        name = "two"
        model.name = "compact"
        """
    )
    recipe = load_recipe(tmp_path / "recipe.toml", ["teacher.model.name=timm/resnet10t.c3_in1k"])
    assert recipe.teachers[0].name == "resnet10t"
    assert recipe.students[0].teachers == ("best", "resnet10t")
    both = load_recipe(tmp_path / "recipe.toml", ["student.model.name=baseline_cnn"])
    assert [run.name for run in both.students] == ["one", "two"]
    one = load_recipe(tmp_path / "recipe.toml", ["students.one.model.name=baseline_cnn"])
    assert [run.name for run in one.students] == ["baseline_cnn-vanilla", "two"]


def test_a_run_is_called_by_its_new_model_after_all_overrides(tmp_path):
    """So that a second override still finds it, and a name that was given stays."""
    file = tmp_path / "r.toml"
    file.write_text(
        '[[students]]\nname = "small"\nmodel.name = "compact"\n'
        '[[students]]\nname = "other"\nmodel.name = "compact"\n'
    )
    key = "students.small"
    recipe = load_recipe(file, [f"{key}.model.name=basic_cnn", f"{key}.train.epochs=3"])
    assert [run.name for run in recipe.students] == ["basic_cnn-supervised", "other"]
    assert recipe.students[0].train.epochs == 3
    recipe = load_recipe(file, [f"{key}.model.name=basic_cnn", f"{key}.name=big"])
    assert recipe.students[0].name == "big"
    assert load_recipe(file, [f"{key}.model.name=compact"]).students[0].name == "small"
