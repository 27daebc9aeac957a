"""Changing the table that a recipe is read as: overrides, a base beneath a run, a small version."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable
from typing import Any

from distill.errors import UserError

Table = dict[str, Any]
NAMED = re.compile(r"^[^=]*\b(model|strategy)\.name\s*=")
ROLES = {"teacher": "teachers", "student": "students"}


def default_name(entry: Table, role: str) -> str:
    """`resnet50` for a teacher, `compact-vanilla` for a student; a model's tag is left out."""
    name = str(_named(entry, "model", role))
    model = name.split("/")[1].split(".")[0] if "/" in name else name.split(".")[-1]
    strategy = str(_named(entry, "strategy", "supervised"))
    return model if role == "teacher" else f"{model}-{strategy.split('.')[-1]}"


def _named(entry: Table, key: str, default: str) -> Any:
    table = entry.get(key)
    return table.get("name", default) if isinstance(table, dict) else default


def merge(base: Table, changes: Table) -> Table:
    """`changes` laid over `base`, table by table; a different `name` inside replaces its table.

    What comes of `base` is a copy, as several runs may have it, each to be changed on its own.
    """
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            renamed = "name" in old and value.get("name", old["name"]) != old["name"]
            merged[key] = value if renamed else merge(old, value)
        else:
            merged[key] = value
    return merged


def set_options(table: Table, overrides: Iterable[str]) -> None:
    """Puts overrides into a table of `read_table`, see `set_option`.

    The only run of its role that they give another model is called by that, unless they name it.
    Options of another model or strategy than before are those that are given here.
    """
    runs = [(role, run) for role in ROLES.values() for run in table.get(role, [])]
    before = [(run.get("name"), _model_of(run)) for _, run in runs]
    # What a network or a strategy is comes first: its options are of that one.
    for override in sorted(overrides, key=lambda override: not NAMED.search(override)):
        set_option(table, override)
    changed = [
        (role, run)
        for (role, run), known in zip(runs, before, strict=True)
        if run.get("name") == known[0] and _model_of(run) != known[1]
    ]
    for role, run in changed:
        if sum(other == role for other, _ in changed) == 1:
            _name_anew(table, run)


def _model_of(run: Table) -> Any:
    model = run.get("model")
    return model.get("name") if isinstance(model, dict) else None


def set_option(table: Table, override: str) -> None:
    """Puts an override, `dotted.key=value`, into a table of `read_table`.

    Raises:
        UserError: It cannot be read, or leads through a value.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"cannot read the override {override!r}", hint="write dotted.key=value")
    value = _parse(text.strip())
    if parts[0] in (*ROLES, *ROLES.values()) and len(parts) == 1:
        raise UserError(f"{key} is a table", "override", f"write {key}.KEY=VALUE")
    if parts[0] in ROLES:
        targets = table[ROLES[parts[0]]]
        if not targets:
            raise UserError(f"the recipe has no {parts[0]}", key, "leave it out, or add one")
        parts = parts[1:]
    elif parts[0] in ROLES.values() and len(parts) > 2:
        runs = {run.get("name"): run for run in table[parts[0]]}
        if parts[1] not in runs:
            raise UserError(
                f"no run named {parts[1]!r}", key, f"choose one of {sorted(map(str, runs))}"
            )
        targets, parts = [runs[parts[1]]], parts[2:]
    else:
        targets = [table]
    for target in targets:
        for part in parts[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                hint = "see `distill options` for the keys that there are"
                raise UserError(f"{part!r} is a value, not a table", key, hint)
        if NAMED.search(override) and target.get("name", value) != value:
            target.pop("options", None)
            if parts[-2] == "strategy":
                target.clear()
        if isinstance(target.get(parts[-1]), dict) and not isinstance(value, dict):
            named = "name" if parts[-1] in ("model", "strategy") else "KEY"
            raise UserError(f"{key} is a table", "override", f"write {key}.{named}={text.strip()}")
        target[parts[-1]] = value


def _name_anew(table: Table, run: Table) -> None:
    """Calls a run by its new model, also where others name it; not by a name that is taken."""
    role = next(role for role, plural in ROLES.items() if any(run is r for r in table[plural]))
    old, new = run.get("name"), default_name(run, role)
    runs = [other for plural in ROLES.values() for other in table[plural]]
    if any(other.get("name") == new for other in runs):
        return
    run["name"] = new
    for other in runs:
        if other.get("start") == old:
            other["start"] = new
        if old in other.get("teachers", ()):
            other["teachers"] = [new if name == old else name for name in other["teachers"]]
    export = table.get("export", {})
    if isinstance(export, dict) and export.get("student") == old:
        export["student"] = new


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # no TOML, a number without end, brackets in brackets
        return text


def shrink(table: Table) -> None:
    """Makes every run of a table two short epochs from a random start, to see that parts work."""
    for run in (*table["teachers"], *table["students"]):
        train, transfer = run.setdefault("train", {}), run.setdefault("transfer", {})
        train.update(epochs=2, batch_size=min(16, train.get("batch_size", 16)), warmup_epochs=0)
        transfer["freeze_epochs"] = min(1, transfer.get("freeze_epochs", 0))
        if run.get("model", {}).get("pretrained") is True:
            run["model"]["pretrained"] = False
    table["random_forest"] = {**table.get("random_forest", {}), "trees": 8}
    table.setdefault("haar", "off")
    table["bench"] = {**table.get("bench", {}), "seconds": 0.05, "rounds": 1, "opponents": []}
    table["search"] = {**table.get("search", {}), "widths": [8, 12], "depths": [[1, 1, 1, 1]]}
    table["search"] |= {"brief_epochs": 1, "promising": 2}
    export = table.get("export", {})
    qad_epochs = min(1, export.get("int8_qad_epochs", 1))
    # Nobody is accurate after two epochs.
    table["export"] = {**export, "min_accuracy": 0.0, "int8_qad_epochs": qad_epochs}
