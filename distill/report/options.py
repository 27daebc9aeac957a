"""Every option with its values, its default and what it means, read from where it is declared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from distill.config import Recipe
from distill.errors import UserError, alike, did_you_mean
from distill.registry import find_module, names_in

# Folder of plug-ins, what makes a file one, the class of its options, and where they are set.
PLUGINS = (
    ("strategies", "Strategy", "Strategy", "student.strategy.{option}"),
    ("students", "build", "Options", "student.model.options.{option}"),
    ("teachers", "build", "Options", "teacher.model.options.{option}"),
    ("export", "Target", "Target", "export.targets"),
)
SKIPPED = ("teachers",)  # the same as students
ROLES = ("teacher", "teachers", "student", "students")
BEYOND = 1e6  # from which on a bound only keeps things from running without end
UNITS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
}


@dataclass(frozen=True)
class OptionDoc:
    """One option.

    Attributes:
        of: Name of the plug-in that declares it; empty for those of every recipe.
        default: As in TOML; empty where it has to be given.
    """

    key: str
    values: str
    default: str
    text: str
    of: str = ""


def recipe_options() -> list[OptionDoc]:
    """The options of every recipe."""
    schema = Recipe.model_json_schema()
    return list(_walk(schema, schema["$defs"], ""))


def plugin_options() -> list[OptionDoc]:
    """The options that strategies, students, teacher families and export targets declare."""
    options = []
    for folder, offers, holder, place in PLUGINS:
        for name in names_in(folder, offers):
            declared: type[BaseModel] = getattr(find_module(folder, name, "", offers), holder)
            schema = declared.model_json_schema()
            for option in _walk(schema, schema.get("$defs", {}), ""):
                key = place.format(option=option.key)
                if folder == "export":
                    key = f'export.targets=[{{name="{name}", {option.key}=…}}]'
                options.append(OptionDoc(key, option.values, option.default, option.text, name))
    return options


def _walk(schema: dict[str, Any], defs: dict[str, Any], prefix: str) -> Iterator[OptionDoc]:
    """The options of a JSON schema, those of tables in it by dotted keys."""
    for name, field in schema.get("properties", {}).items():
        if name in SKIPPED and not prefix:
            continue
        inner = _table_in(field, defs)
        if inner is not None:
            role = name.removesuffix("s") if "items" in field else name  # students, each a student
            yield from _walk(inner, defs, f"{prefix}{role}.")
        else:
            needed = name in schema.get("required", ())
            default = "" if needed else json.dumps(field.get("default"), ensure_ascii=False)
            default = "none" if default == "null" else default
            text = " ".join(field.get("description", "").split())
            yield OptionDoc(prefix + name, values_of(field, defs), default, text)


def _table_in(field: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a table with options of its own, be it one of several."""
    link = field.get("items", field)
    link = next(iter(link.get("allOf", ())), link)
    table: dict[str, Any] = defs.get(link.get("$ref", "").rpartition("/")[2], {})
    return table if table.get("properties", {}).keys() - {"name"} else None


def values_of(field: dict[str, Any], defs: dict[str, Any]) -> str:
    """What an option may be, in a few words."""
    if "$ref" in field:
        return values_of(defs[field["$ref"].rpartition("/")[2]], defs)
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(values_of(choice, defs) for choice in field["anyOf"]))
    kind = field.get("type", "")
    if kind == "array":
        parts = field.get("prefixItems")
        if parts:
            return f"[{', '.join(values_of(part, defs) for part in parts)}]"
        return f"list of: {values_of(field.get('items', {}), defs)}"
    if kind in ("object", ""):
        return "table" if kind else "any"
    if kind == "null":
        return "none"
    bounds = [
        f"{sign} {field[key]:,}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in field and field[key] < BEYOND
    ]
    return " ".join([UNITS.get(kind, kind), *bounds])


def find_options(key: str) -> list[OptionDoc]:
    """An option, or all of a group.

    Args:
        key: As it is given on the command line: `student.train.lr`, `students.NAME.train.lr`,
            `train.lr`, or the beginning of several, such as `views`.

    Raises:
        UserError: No such option; names those that are meant, perhaps.
    """
    known = recipe_options()
    options = _matching(key, known)
    if not options:  # then one of a plug-in: these have to be imported
        known += plugin_options()
        options = _matching(key, known)
    if not options:
        hint = did_you_mean(alike(key, [option.key for option in known]))
        raise UserError(f"no option {key!r}", "distill options", hint or "see `distill options`")
    return options


def _matching(key: str, known: Sequence[OptionDoc]) -> list[OptionDoc]:
    """Options of that key, or whose keys it begins, in any of the ways that it may be typed."""
    role, _, rest = key.strip(".").partition(".")
    spelled = [key.strip("."), f"student.{key.strip('.')}"]
    if role in ROLES:  # of all, as in `student.train.lr`, or of one, `students.NAME.train.lr`
        spelled = [f"student.{rest}", f"student.{rest.partition('.')[2]}"] if rest else ["student"]
    for name in spelled:
        options = [o for o in known if o.key == name or o.key.startswith(f"{name.rstrip('.')}.")]
        if options and not name.endswith("."):
            return options
    return []


def option_lines(options: Sequence[OptionDoc]) -> Iterator[str]:
    """Options as text: the key with its default and values, and below it what it means."""
    for option in options:
        of = f"  (of {option.of})" if option.of else ""
        default = f" = {option.default}" if option.default else ""
        yield f"{option.key}{default}{of}"
        yield f"    {option.values}"
        if option.text:
            yield f"    {option.text}"


def options_page() -> str:
    """The reference page, in Markdown."""
    lines = [
        "# Options",
        "",
        "Written by `distill options --markdown` from where the options are declared. In a recipe "
        "they are tables (`[student.train]`, `lr = 1e-3`), on the command line dotted keys "
        "(`student.train.lr=1e-3`); `teacher.…` has the options of `student.…`, and "
        "`students.NAME.…` is one student of several. `distill options KEY` prints one or a group.",
    ]
    recipe = recipe_options()
    groups = dict.fromkeys(option.key.rpartition(".")[0] for option in recipe)
    for group in groups:
        rows = [option for option in recipe if option.key.rpartition(".")[0] == group]
        lines += ["", f"## {group or 'Recipe'}", "", *_table(rows)]
    lines += ["", "## Of plug-ins"]
    plugins = plugin_options()
    for name in dict.fromkeys(option.of for option in plugins):
        lines += [
            "",
            f"### {name}",
            "",
            *_table([option for option in plugins if option.of == name]),
        ]
    return "\n".join(lines) + "\n"


def _table(options: Sequence[OptionDoc]) -> Iterator[str]:
    yield "| option | default | values | meaning |"
    yield "| --- | --- | --- | --- |"
    for option in options:
        cells = (
            f"`{option.key}`",
            f"`{option.default}`" if option.default else "",
            option.values,
            option.text,
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
