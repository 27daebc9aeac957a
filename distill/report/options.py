"""Every option with its values, its default and what it means, read from where it is declared."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from distill.config import Recipe
from distill.errors import UserError
from distill.registry import find_module, names_in

# Folder of plug-ins, what makes a file one, the class of its options, and where they are set.
PLUGINS = (
    ("strategies", "Strategy", "Strategy", "student.strategy.{option}"),
    ("students", "build", "Options", "student.model.options.{option}"),
    ("teachers", "build", "Options", "teacher.model.options.{option}"),
    ("export", "Target", "Target", "export.targets"),
)
SKIPPED = ("teachers",)  # the same as students
ROLE = re.compile(r"^(teachers?|students)\.")
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
    found = []
    for folder, offers, holder, place in PLUGINS:
        for name in names_in(folder, offers):
            declared: type[BaseModel] = getattr(find_module(folder, name, "", offers), holder)
            schema = declared.model_json_schema()
            for one in _walk(schema, schema.get("$defs", {}), ""):
                key = place.format(option=one.key)
                if folder == "export":
                    key = f'export.targets=[{{name="{name}", {one.key}=…}}]'
                found.append(OptionDoc(key, one.values, one.default, one.text, name))
    return found


def _walk(schema: dict[str, Any], defs: dict[str, Any], prefix: str) -> Iterator[OptionDoc]:
    """The options of a JSON schema, those of tables in it by dotted keys."""
    for name, given in schema.get("properties", {}).items():
        if name in SKIPPED and not prefix:
            continue
        inner = _table_in(given, defs)
        if inner is not None:
            role = name.removesuffix("s") if "items" in given else name  # students, each a student
            yield from _walk(inner, defs, f"{prefix}{role}.")
        else:
            needed = name in schema.get("required", ())
            default = "" if needed else json.dumps(given.get("default"), ensure_ascii=False)
            default = "none" if default == "null" else default
            text = " ".join(given.get("description", "").split())
            yield OptionDoc(prefix + name, values_of(given, defs), default, text)


def _table_in(given: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any] | None:
    """The schema of a table with options of its own, be it one of several."""
    link = given.get("items", given)
    link = next(iter(link.get("allOf", ())), link)
    found: dict[str, Any] = defs.get(link.get("$ref", "").rpartition("/")[2], {})
    return found if found.get("properties", {}).keys() - {"name"} else None


def values_of(given: dict[str, Any], defs: dict[str, Any]) -> str:
    """What an option may be, in a few words."""
    if "$ref" in given:
        return values_of(defs[given["$ref"].rpartition("/")[2]], defs)
    if "enum" in given:
        return " | ".join(map(str, given["enum"]))
    if "const" in given:
        return str(given["const"])
    if "anyOf" in given:
        return " or ".join(dict.fromkeys(values_of(one, defs) for one in given["anyOf"]))
    kind = given.get("type", "")
    if kind == "array":
        parts = given.get("prefixItems")
        if parts:
            return f"[{', '.join(values_of(one, defs) for one in parts)}]"
        return f"list of: {values_of(given.get('items', {}), defs)}"
    if kind in ("object", ""):
        return "table" if kind else "any"
    if kind == "null":
        return "none"
    bounds = [
        f"{sign} {given[key]:,}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in given
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
    wanted = re.sub(r"^(teachers|students)\.[^.]+\.(?=.*)", "student.", key.strip("."))
    wanted = ROLE.sub("student.", wanted)
    known = recipe_options()
    for more in (list[OptionDoc], plugin_options):
        known += more()
        for spelled in (wanted, f"student.{wanted}"):
            found = [o for o in known if o.key == spelled or o.key.startswith(f"{spelled}.")]
            if found:
                return found
    raise UserError(f"no option {key!r}", "distill options", meant(wanted, known))


def meant(wanted: str, known: Sequence[OptionDoc]) -> str:
    """Which keys somebody may have had in mind: those alike, as a whole or in their last part."""
    last = {one.key: one.key.rpartition(".")[2] for one in known}
    alike = difflib.get_close_matches(wanted.rpartition(".")[2], last.values(), 3, 0.75)
    close = [*difflib.get_close_matches(wanted, last, 3, 0.75)]
    close += [key for key, name in last.items() if name in alike]
    few = list(dict.fromkeys(close))[:4]
    return f"did you mean {' or '.join(few)}?" if few else "see `distill options`"


def option_lines(options: Sequence[OptionDoc]) -> Iterator[str]:
    """Options as text: the key with its default and values, and below it what it means."""
    for one in options:
        of = f"  (of {one.of})" if one.of else ""
        default = f" = {one.default}" if one.default else ""
        yield f"{one.key}{default}{of}"
        yield f"    {one.values}"
        if one.text:
            yield f"    {one.text}"


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
    groups = dict.fromkeys(one.key.rpartition(".")[0] for one in recipe)
    for group in groups:
        rows = [one for one in recipe if one.key.rpartition(".")[0] == group]
        lines += ["", f"## {group or 'Recipe'}", "", *_table(rows)]
    lines += ["", "## Of plug-ins"]
    plugins = plugin_options()
    for name in dict.fromkeys(one.of for one in plugins):
        lines += ["", f"### {name}", "", *_table([one for one in plugins if one.of == name])]
    return "\n".join(lines) + "\n"


def _table(options: Sequence[OptionDoc]) -> Iterator[str]:
    yield "| option | default | values | meaning |"
    yield "| --- | --- | --- | --- |"
    for one in options:
        cells = (f"`{one.key}`", f"`{one.default}`" if one.default else "", one.values, one.text)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
