"""From a TOML recipe and `key=value` overrides to a checked `Recipe`.

A recipe says only what differs from the defaults. `[teacher]` and `[student]` are the base of
every entry of `[[teachers]]` and `[[students]]`, or the only entry where there is no such list; an
entry's `recipe = "other.toml"` puts another recipe's run beneath it. Overrides come last and win.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from distill.config import Recipe
from distill.errors import UserError, alike, did_you_mean
from distill.overrides import ROLES, Table, default_name, merge, set_options, shrink

ModelT = TypeVar("ModelT", bound=BaseModel)
KindT = TypeVar("KindT")
FOLDERS = "DISTILLATE_MODULES"  # environment variable that hands them on
BARE = re.compile(r"[A-Za-z0-9_-]+")  # a key that TOML has without quotes
KINDS: dict[type, str] = {dict: "table", list: "list", str: "string"}


def load_recipe(
    path: str | Path, overrides: list[str] | None = None, smoke: bool = False
) -> Recipe:
    """Reads, merges and checks a recipe.

    Args:
        path: A TOML file, or the name of a shipped one such as `students/compact_demo.toml`.
        overrides: `dotted.key=value`, the value in TOML (a bare word is a string). `student.…` and
            `teacher.…` reach every run of that role, `students.NAME.…` one of them.
        smoke: Shrinks every run to two short epochs, to see in a minute whether all parts work.

    Raises:
        UserError: No such recipe, no valid TOML, or an option that does not exist or fit.
    """
    table = read_table(path)
    set_options(table, overrides or ())
    recipe = check_table(Recipe, table, str(path))
    if not smoke:
        return recipe
    shrink(table)
    return check_table(Recipe, table, str(path))


def read_table(path: str | Path) -> Table:
    """A recipe as a table, complete but for the defaults; see `load_recipe`."""
    file = find_recipe(path)
    table = _expand_runs(_read(file), file.parent, (file.resolve(),))
    targets = _as(dict, table.get("export", {}), "export").get("targets", ())
    lists = [plugins for plugins in (targets, table.get("track")) if isinstance(plugins, list)]
    if any(_is_module(plugin) for plugins in lists for plugin in plugins):
        look_in(file.parent)
    return table


def recipe_of(overrides: list[str]) -> Recipe:
    """The default recipe with overrides."""
    table = _expand_runs({}, Path())
    set_options(table, overrides)
    return check_table(Recipe, table, "override")


def check_table(
    model: type[ModelT], table: Table, where: str, hint: str = "see `distill options`"
) -> ModelT:
    """Checks a table; errors name the dotted key, the value got and what is allowed.

    Args:
        hint: What to do where no option can be guessed that was meant.
    """
    try:
        return model.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        problem = error.errors()[0]
        table_key, dot, _ = _dotted(problem["loc"], table, is_missing=True).rpartition(".")
        meant = [table_key + dot + name for name in _beside(model, problem["loc"])]
        raise UserError(_describe(error, table), where, did_you_mean(meant) or hint) from None


def _beside(model: type[BaseModel], places: tuple[int | str, ...]) -> list[str]:
    """Options that somebody may have had in mind with one that is not there: of the same table
    those alike, else those of that name in the tables below it."""
    fields = model.model_fields
    for place in places[:-1]:
        if isinstance(place, str) and place in fields:
            fields = _fields_in(fields[place].annotation)
    name = str(places[-1]) if places else ""
    if name in fields:
        return []
    below = {table: _fields_in(field.annotation) for table, field in fields.items()}
    singles = {plural: single for single, plural in ROLES.items()}
    deeper = [f"{singles.get(table, table)}.{name}" for table in below if name in below[table]]
    return alike(name, fields) or deeper


def _fields_in(annotation: Any) -> dict[str, FieldInfo]:
    """Options of the table that an annotation has in it, in a list or union perhaps."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields
    inner = (_fields_in(part) for part in get_args(annotation))
    return next((fields for fields in inner if fields), {})


def _describe(error: ValidationError, table: Table) -> str:
    """The first problem of a validation error, as one line.

    What a validator of a whole table says begins with the option of that table that it is about.
    """
    problem = error.errors()[0]
    key = _dotted(problem["loc"], table, problem["type"] == "missing")
    if problem["type"] == "extra_forbidden":
        return f"unknown option {key!r}"
    if problem["type"] == "missing":
        return f"{key!r} is required"
    message = problem["msg"].removeprefix("Value error, ")
    got = problem["input"]
    if problem["type"] == "value_error" and isinstance(got, dict):
        return f"{key}.{message}" if key else message
    return f"{key}: {message}" + ("" if isinstance(got, dict | list) else f", got {got!r}")


def _dotted(places: tuple[int | str, ...], table: Table, is_missing: bool) -> str:
    """A validation error's key as it is typed: without pydantic's names of the types that a value
    may have, and with a run's name, or with its role alone where it is the only one."""
    singles = {plural: single for single, plural in ROLES.items()}
    parts: list[str] = []
    here = cast(Any, table)
    for number, place in enumerate(places):
        known = place in here if isinstance(here, dict) else isinstance(place, int)
        if known:
            runs, here = here, here[place]
            if parts and parts[-1] in singles and isinstance(place, int):
                if len(runs) == 1:
                    parts[-1] = singles[parts[-1]]
                    continue
                place = here.get("name", place) if isinstance(here, dict) else place
        if known or (is_missing and number + 1 == len(places)):
            parts.append(str(place))
    return ".".join(parts)


def find_recipe(path: str | Path) -> Path:
    """The file itself, or the shipped recipe of that folder and name."""
    file = Path(path)
    if file.is_file():
        return file
    if len(file.parts) == 2 and file.parts[0] in ROLES.values():
        shipped = Path(str(files(f"distill.{file.parts[0]}"))) / file.name
        if shipped.is_file():
            return shipped
    raise UserError("no such recipe", str(path), "name a .toml file or one of students/*.toml")


def look_in(folder: Path) -> None:
    """Lets modules of the user's be imported from a folder, after all that is installed.

    Also in processes that this one starts.
    """
    place = str(folder.resolve())
    if place not in module_folders():
        os.environ[FOLDERS] = os.pathsep.join([*module_folders(), place])
    if place not in sys.path:
        sys.path.append(place)


def module_folders() -> list[str]:
    """Folders that `look_in` was told of, here or in the process that started this one."""
    return [folder for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]


def _is_module(plugin: Any) -> bool:
    """Whether a plug-in, a name or a table with one, is a module of the user's."""
    name = plugin.get("name", "") if isinstance(plugin, dict) else plugin
    return isinstance(name, str) and "." in name.partition("/")[0]


def modules_of(recipe: Recipe) -> list[str]:
    """Names of plug-ins that are modules of the user's, which using the recipe runs."""
    runs = (*recipe.teachers, *recipe.students)
    names = [name for config in runs for name in (config.model.name, config.strategy.name)]
    names += [target.name for target in recipe.export.targets]
    names += [*recipe.bench.engines, *recipe.track]
    return [name for name in dict.fromkeys(names) if _is_module(name)]


def write_toml(recipe: Recipe, whole: bool = True) -> str:
    """A recipe as TOML that `load_recipe` reads back to the same.

    Args:
        whole: Defaults included, that later versions may change.
    """
    dumped = recipe.model_dump_json(exclude_none=True, exclude_defaults=not whole)
    table = {"teachers": [], "students": [], **json.loads(dumped)}
    runs = {role: table.pop(role) for role in ROLES.values()}
    lines = [_pair(key, value) for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *(_pair(*item) for item in value.items())]
    for role, entries in runs.items():
        for entry in entries:
            lines += ["", f"[[{role}]]", *(_pair(*item) for item in entry.items())]
    return "\n".join(lines) + "\n"


def _pair(key: str, value: Any) -> str:
    return f"{key if BARE.fullmatch(key) else _string(key)} = {_toml(value)}"


def _string(text: str) -> str:
    """A JSON string, which is one of TOML's too if nothing beyond it is an escape but DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml(value: Any) -> str:
    """A value in TOML; JSON strings are TOML strings, and nested tables are written inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(_pair(*item) for item in value.items()) + " }" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return _string(value) if isinstance(value, str) else json.dumps(value)


def _read(file: Path) -> Table:
    try:
        return tomllib.loads(file.read_text("utf-8-sig"))  # some editors begin with a mark
    except (ValueError, RecursionError) as error:
        hint = "correct that place; strings stand in quotes"
        raise UserError(f"not valid TOML: {error}", str(file), hint) from None


def _expand_runs(table: Table, folder: Path, above: tuple[Path, ...] = ()) -> Table:
    """Replaces `[teacher]`, `[student]` and `recipe` links by complete lists of runs.

    Args:
        above: Recipes that link to this one, none of which it may link to.
    """
    table = dict(table)
    for single, plural in ROLES.items():
        base = _as(dict, table.pop(single, {}), single)
        hint = f"write [[{plural}]], or [{single}] for a single one"
        entries = _as(list, table.pop(plural, [{}] if base else []), plural, hint)
        runs = [merge(base, _as(dict, entry, plural)) for entry in entries]
        table[plural] = [_expand_run(entry, single, folder, above) for entry in runs]
    return table


def _as(kind: type[KindT], value: Any, key: str, hint: str | None = None) -> KindT:
    if not isinstance(value, kind):
        raise UserError(f"{key} must be a {KINDS[kind]}, got {value!r}", hint=hint)
    return value


def _expand_run(entry: Table, role: str, folder: Path, above: tuple[Path, ...]) -> Table:
    entry = dict(entry)
    if link := entry.pop("recipe", None):
        file = find_recipe(folder / _as(str, link, f"{role}.recipe")).resolve()
        if file in above:
            raise UserError("recipes that link in a circle", str(file), "remove one of the links")
        bases = _expand_runs(_read(file), file.parent, (*above, file))[ROLES[role]]
        if len(bases) != 1:
            what = f"{link!r} holds {len(bases)} {role}s, expected one"
            raise UserError(what, f"{role}.recipe", "link to a recipe of one, or write it out")
        entry = merge(bases[0], entry)
    model = _as(dict, entry.get("model", {}), f"{role}.model")
    strategy = _as(dict, entry.get("strategy", {}), f"{role}.strategy")
    if _is_module(model) or _is_module(strategy):
        look_in(folder)
    if isinstance(model.get("pretrained"), str):
        entry["model"] = {**model, "pretrained": str((folder / model["pretrained"]).resolve())}
    entry.setdefault("name", default_name(entry, role))
    return entry
