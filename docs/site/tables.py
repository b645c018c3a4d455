"""Tables of what JSON holds, whatever it is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.compare_output import show_flops
from experiments.report import show_bytes, show_number, show_percent, show_seconds
from experiments.tables import markdown_table

LONG = 12
"""Numbers of a list that are still shown."""
UNITS = {"bytes": show_bytes, "seconds": show_seconds, "flops": show_flops}


def tables(document: Mapping[str, Any]) -> str:
    """All of a JSON object in Markdown: single values, then lists and groups of objects."""
    facts: list[tuple[str, str]] = []
    others: list[str] = []
    _collect("", document, facts, others)
    single = [markdown_table(["measure", "value"], facts)] if facts else []
    return "\n".join([*single, *others])


def _collect(path: str, value: Any, facts: list[tuple[str, str]], others: list[str]) -> None:
    if isinstance(value, Mapping):
        groups = {key: x for key, x in value.items() if isinstance(x, Mapping)}
        alike = _alike(list(groups.values()))
        if alike:
            others.append(_titled(path, _group(groups)))
        for key, x in value.items():
            if not (alike and key in groups):
                _collect(f"{path}.{key}" if path else key, x, facts, others)
    elif isinstance(value, list) and value and all(isinstance(x, Mapping) for x in value):
        others.append(_titled(path, rows(value)))
    else:
        facts.append((words(path), show(path, value)))


def rows(objects: Sequence[Mapping[str, Any]]) -> str:
    """A line for each object, a column for each key that any of them has."""
    flat = [dict(_flat("", x)) for x in objects]
    keys = list(dict.fromkeys(key for x in flat for key in x))
    lines = [[show(key, x[key]) if key in x else "–" for key in keys] for x in flat]
    return markdown_table([words(key) for key in keys], lines)


def _group(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Objects of like keys side by side, as lines or as columns: whichever are fewer columns."""
    flat = {name: dict(_flat("", x)) for name, x in groups.items()}
    keys = list(dict.fromkeys(key for x in flat.values() for key in x))
    cells = [
        [show(key, x[key]) if key in x else "–" for x in flat.values()] for key in keys
    ]  # fmt: skip
    if len(keys) >= len(flat):
        lines = [[words(key), *line] for key, line in zip(keys, cells, strict=True)]
        return markdown_table(["", *map(words, flat)], lines)
    turned = zip(*cells, strict=True)
    lines = [[words(name), *line] for name, line in zip(flat, turned, strict=True)]
    return markdown_table(["", *map(words, keys)], lines)


def _alike(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two or more objects have most of their keys in common."""
    if len(groups) < 2:
        return False
    each = [set(x) for x in groups]
    return len(set.intersection(*each)) * 2 >= len(set.union(*each)) > 0


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, x in value.items():
            yield from _flat(f"{path}.{key}" if path else key, x)
    else:
        yield path, value


def _titled(path: str, table: str) -> str:
    return f"**{words(path)}**\n\n{table}" if path else table


def words(path: str) -> str:
    """A dotted key as people say it."""
    return path.replace("_", " ").replace(".", ": ")


def show(path: str, value: Any) -> str:
    """A value in the unit that its key names."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if path.endswith("accuracy"):
            return show_percent(value)
        # A number per second is none of seconds.
        units = (show for name, show in UNITS.items() if name in path.replace("per_second", ""))
        return next(units, show_number)(value)
    if isinstance(value, list):
        if len(value) > LONG:
            return f"{len(value)} values"
        return ", ".join(show(path, x) for x in value) or "–"
    if isinstance(value, Mapping):
        return f"`{json.dumps(value)}`"
    return str(value)
