"""Points of a sweep: settings to be tried, combined from lists of values.

A sweep file has a function ``get_sweep()``, or ``get_sweep(setup)`` with the `Setup` of the config
that is swept, which returns a list of points:

    def get_sweep() -> list[Point]:
        blocks = sweep("partition.num_blocks", (2, 3, 6))
        return product(blocks, sweep("partition.overlap", (0.0, 0.1)))
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from dbjax.errors import SettingError

Point = Mapping[str, Any]
"""Values by setting, `section.key`; with `name` what to call the point, and with `config` another
config, FILE.py or FILE.py:variant, in place of the one that is swept."""


def sweep(key: str, values: Iterable[Any]) -> list[Point]:
    """A point for each value of one setting."""
    return [{key: value} for value in values]


def product(*parts: Iterable[Point]) -> list[Point]:
    """Every combination of a point of each part; those of the last part change fastest.

    Raises:
        SettingError: if two points that meet say something of the same setting.
    """
    points: list[Point] = []
    for combination in itertools.product(*parts):
        keys = [key for point in combination for key in point]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise SettingError(
                f"{twice[0]} is in two parts of a product; allowed: each setting in one of them"
            )
        points.append({key: value for point in combination for key, value in point.items()})
    return points


def chain(*parts: Iterable[Point]) -> list[Point]:
    """The points of each part, one part after another."""
    return [point for part in parts for point in part]
