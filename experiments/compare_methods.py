"""The methods of a comparison: their configs, checked before any is trained, and their budget."""

import dataclasses
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from dbjax.build import Setup, build
from dbjax.catalogue import FAMILIES, GENERATIVE, TEXT
from dbjax.config import load_config
from dbjax.data import make_stream
from dbjax.errors import SettingError, require
from dbjax.flops import update_flops
from experiments.many_runs import check_names, check_seeds, seeded, slug

BUDGETS = ("steps", "compute")


@dataclasses.dataclass(frozen=True)
class Method:
    """One line of the comparison.

    Attributes:
        name: what to call it.
        file: of its config, with the variant.
        config: with all overrides, and the first seed.
        flops: of one update of each block.
    """

    name: str
    file: str
    config: ConfigDict
    flops: Sequence[int]

    @property
    def slug(self) -> str:
        """Its name as that of a folder."""
        return slug(self.name)

    def seeded(self, seed: int, steps: int) -> ConfigDict:
        """The config of one run: the `seed`-th, counted from 0, with so many steps."""
        config = seeded(self.config, seed)
        config.training.steps = steps
        return config


def named(
    texts: Iterable[str], file: Path | None
) -> list[tuple[str, tuple[str, Mapping[str, Any]]]]:
    """Name, config file and own overrides of the methods of a command line.

    Args:
        texts: of --method.
        file: of --methods, if there is one.

    Raises:
        SettingError: if there are none, or two are called the same.
    """
    methods: list[tuple[str, tuple[str, Mapping[str, Any]]]] = []
    if file is not None:
        methods += _read_file(file).items()
    for text in texts:
        name, equals, config = text.partition("=")
        if not equals:
            path, _, variant = text.partition(".py:")
            name, config = f"{Path(path).stem} {variant}".strip(), text
        methods.append((name.strip(), (config, {})))
    require(bool(methods), "number of methods", 0, "1 or more, from --method or --methods")
    check_names([name for name, _ in methods], "a method")
    return methods


def read_methods(
    methods: Iterable[tuple[str, tuple[str, Mapping[str, Any]]]],
    overrides: Sequence[str],
    num_seeds: int = 1,
) -> list[Method]:
    """The methods, all built once to see that they can be.

    Args:
        methods: as from `named`.
        overrides: of all configs, as on the command line.
        num_seeds: runs of each.

    Raises:
        SettingError: for a config that cannot be used, or one that does not compare.
    """
    result = []
    for name, (file, own) in methods:
        given = [*(f"{key}={value}" for key, value in own.items()), *overrides]
        try:
            config = load_config(file, given)
            setup = build(config)
            _check(setup, num_seeds)
        except SettingError as error:
            raise SettingError(f"method {name!r}: {error}") from error
        result.append(Method(name, file, config, update_flops(setup.trainer, _batch(setup))))
    check_alike(result)
    return result


def check_alike(methods: Iterable[Method]) -> None:
    """Refuses methods whose accuracies are of different images.

    Raises:
        SettingError: if they are.
    """
    data = sorted({method.config.data.name for method in methods})
    require(len(data) == 1, "data.name of the methods", data, "the same data for all")


def budget_steps(methods: Sequence[Method], budget: str) -> dict[str, int]:
    """Steps of each block, by the method's name.

    Args:
        methods: of which the first sets the FLOPs of all, with `compute`.
        budget: `steps` or `compute`.
    """
    first = methods[0]
    steps = {method.name: method.config.training.steps for method in methods}
    if budget == "steps":
        return steps
    total = steps[first.name] * sum(first.flops)
    return {method.name: max(round(total / sum(method.flops)), 1) for method in methods}


def _read_file(file: Path) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    require(file.is_file(), "--methods", str(file), "a Python file with get_methods()")
    try:
        found = runpy.run_path(str(file))["get_methods"]()
        return {name: (config, dict(own)) for name, (config, own) in found.items()}
    except Exception as error:
        kind = type(error).__name__
        raise SettingError(
            f"{file} fails with {kind}: {error}; allowed: a file whose get_methods() returns "
            "{name: (config, {override: value})}"
        ) from error


def _check(setup: Setup, num_seeds: int) -> None:
    """Refuses what cannot be trained here or be compared."""
    family, placement = setup.config.family, setup.placement.name
    classifiers = [name for name in FAMILIES if name not in (*GENERATIVE, *TEXT)]
    allowed = f"a classifier: {' or '.join(map(repr, classifiers))}"
    require(family in classifiers, "family", family, allowed)
    allowed = "any other: methods are trained in this process"
    require(placement != "isolated", "placement.name", placement, allowed)
    check_seeds(setup.config, num_seeds)


def _batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    """The shape of one batch of one block."""
    example = make_stream(setup.dataset, setup.data, seed=setup.trainer.seed, block=0).take(1)
    return {key: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for key, x in example.items()}
