"""Measures of text that carry how they were made, so that only like is held against like."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from dbjax.errors import SettingError


@runtime_checkable
class Measure(Protocol):
    """A figure with its settings."""

    @property
    def settings(self) -> Mapping[str, object]:
        """All that must be equal for two such figures to compare."""


def require_comparable(first: Measure, *others: Measure) -> None:
    """Refuses figures that must not stand in one column of a table.

    Raises:
        SettingError: two are of different kinds, or a setting differs.
    """
    for other in others:
        if type(other) is not type(first):
            kinds = f"{type(first).__name__} and {type(other).__name__}"
            raise SettingError(f"{kinds} are different measures and do not compare")
        for name, value in first.settings.items():
            if (found := other.settings[name]) != value:
                kind = type(first).__name__
                raise SettingError(
                    f"figures of {kind} with {name} {value!r} and {found!r} do not compare; "
                    "measure both with the same"
                )
