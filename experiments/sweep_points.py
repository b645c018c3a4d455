"""The points of a sweep: read, named, and checked before any of them is run."""

import dataclasses
import inspect
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dbjax.adaptive import check_adaptive
from dbjax.build import build, complete, read_settings, task_and_trainer
from dbjax.catalogue import GENERATIVE, TEXT
from dbjax.config import config_differences, config_to_json, load_config
from dbjax.data import load_dataset
from dbjax.errors import SettingError, require
from dbjax.sampling import ADAPTIVE, Sampler
from dbjax.sweeps import Point as Given
from dbjax.workdir import check_claim
from experiments.many_runs import check_names, check_seeds, check_steps, seeded, slug

EVALUATION_ONLY = "sampling."
"""What settings that can be changed after training begin with."""
NOT_EVALUATED = ("data.data_dir", "training.log_every", "training.save_every")
"""Settings that make no difference to an evaluation."""


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a sweep, with the first seed.

    Attributes:
        name: what to call it.
        file: its config file, with the variant.
        settings: what the sweep sets, by key.
        config: with all overrides.
        training: the same without the point's own `sampling`: that of the run it is evaluated on,
            which it may share with others.
        run: name of that run's folder.
        overrides: the point's own `sampling`, as on the command line.
    """

    name: str
    file: str
    settings: Mapping[str, Any]
    config: ConfigDict
    training: ConfigDict
    run: str
    overrides: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A point with one of its seeds.

    Attributes:
        point: it is of.
        config: with this seed; what is evaluated.
        training: with this seed; what is trained.
        folder: of the run.
        out: where its evaluation goes: the run folder, or one of its own where runs are shared.
        log: what its processes print.
    """

    point: Point
    config: ConfigDict
    training: ConfigDict
    folder: Path
    out: Path
    log: Path


def read_points(file: Path, config: str, overrides: Sequence[str]) -> list[Point]:
    """The points of a sweep file, all of them built once to see that they can be.

    Nothing is compiled and nothing is written.

    Args:
        file: with get_sweep().
        config: the config that is swept, FILE.py or FILE.py:variant.
        overrides: of all points, as on the command line.

    Raises:
        SettingError: for a file or a point that cannot be used, naming the point.
    """
    given = _read_file(file, config, overrides)
    for text in overrides:
        key, _, value = text.removeprefix("--config.").partition("=")
        unused = all(key in point for point in given)
        require(not unused, f"--config.{key}", value, "left to the sweep, whose points all set it")
    names = [str(point.get("name", default_name(point, given, config))) for point in given]
    check_names(names, "a point")
    points = []
    infos: dict[str, Any] = {}
    for name, one in zip(names, given, strict=True):
        try:
            points.append(_point(name, one, given, config, overrides))
            _check(points[-1].config, infos)
        except SettingError as error:
            raise SettingError(f"point {name!r}: {error}") from error
    _check_together(points)
    return _with_runs(points)


def make_trials(points: Sequence[Point], workdir: Path, seeds: int) -> list[Trial]:
    """All points of a seed before the next seed: what is there after a stop compares.

    Raises:
        SettingError: naming the point, if there are not so many seeds, or a folder holds another
            run.
    """
    trials = []
    for number in range(seeds):
        for point in points:
            config, training = seeded(point.config, number), seeded(point.training, number)
            seed = f"seed_{config.seed}"
            folder = workdir / "runs" / point.run / seed
            own = folder / "evaluations" / slug(point.name)
            log = workdir / "logs" / f"{slug(point.name)}_{seed}.txt"
            out = own if point.overrides else folder
            try:
                check_seeds(point.config, seeds)
                check_claim(folder, training)
                check_steps(folder, training.training.steps)
            except SettingError as error:
                raise SettingError(f"point {point.name!r}: {error}") from error
            trials.append(Trial(point, config, training, folder, out, log))
    return trials


def default_name(point: Given, points: Sequence[Given], config: str) -> str:
    """What a point sets of all that varies, as "num_blocks=4 overlap=0.1"; else its config."""
    words = [f"{short}={show(point[key])}" for key, short in varying(points) if key in point]
    if "config" in point or not words:
        words.insert(0, config_name(point.get("config", config)))
    return " ".join(words)


def varying(points: Sequence[Given]) -> list[tuple[str, str]]:
    """The settings in which points differ, each with its short name, which tells them apart."""
    keys = list(dict.fromkeys(key for point in points for key in _settings(point)))
    # Whether they are there is part of what points can differ in.
    different = [key for key in keys if len({_key(point, key) for point in points}) > 1]
    return short_names(different)


def short_names(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Dotted keys, each with as much of its end as tells it apart from the others."""
    last = [key.rpartition(".")[2] for key in keys]
    return [
        (key, short if last.count(short) == 1 else key)
        for key, short in zip(keys, last, strict=True)
    ]


def config_name(file: str) -> str:
    """File and variant: "vit_digits end_to_end"."""
    path, _, variant = file.partition(".py:")
    return f"{Path(path).stem} {variant}".strip()


def show(value: Any) -> str:
    """A setting's value in few letters."""
    if isinstance(value, list | tuple):
        return "+".join(map(show, value))
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def value_of(config: ConfigDict, key: str) -> Any:
    """A config's value by its dotted key; None where it has no such setting."""
    value: Any = config
    for part in key.split("."):
        if part not in value:
            return None
        value = value[part]
    return value


def _settings(point: Given) -> list[str]:
    return [key for key in point if key not in ("name", "config")]


def _key(point: Given, key: str) -> tuple[bool, str]:
    return key in point, repr(point.get(key))


def _read_file(file: Path, config: str, overrides: Sequence[str]) -> list[Given]:
    """What the sweep file returns; the config it is of is read first."""
    require(file.is_file(), "--sweep", str(file), "a Python file with get_sweep()")
    base = load_config(config, overrides)
    try:
        get_sweep = runpy.run_path(str(file))["get_sweep"]
        # Most sweeps need no setup, which may have to read much data.
        arguments = [build(base)] if inspect.signature(get_sweep).parameters else []
        points: list[Given] = [dict(point) for point in get_sweep(*arguments)]
    except SettingError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise SettingError(
            f"{file} fails with {kind}: {error}; allowed: a file whose get_sweep() returns a list "
            "of {override: value}"
        ) from error
    require(bool(points), f"number of points of {file}", 0, "1 or more")
    return points


def _point(
    name: str, given: Given, points: Sequence[Given], config: str, overrides: Sequence[str]
) -> Point:
    file = str(given.get("config", config))
    settings = {key: given[key] for key in _settings(given)}
    texts = {key: f"{key}={value}" for key, value in settings.items()}
    later = [text for key, text in texts.items() if key.startswith(EVALUATION_ONLY)]
    before = [text for key, text in texts.items() if not key.startswith(EVALUATION_ONLY)]
    plain = {key: value for key, value in given.items() if not key.startswith(EVALUATION_ONLY)}
    # Found again when points are added that differ in sampling alone.
    run = default_name(plain, points, config) if later else name
    return Point(
        name=name,
        file=file,
        settings=settings,
        config=load_config(file, [*overrides, *before, *later]),
        training=load_config(file, [*overrides, *before]),
        run=slug(run),
        overrides=[f"--config.{text}" for text in later],
    )


def _check(config: ConfigDict, infos: dict[str, Any]) -> None:
    """Builds all but the data, of which the facts are kept in `infos` for the next point."""
    settings = read_settings(config)
    key = repr(settings.data)
    if key not in infos:
        infos[key] = load_dataset(settings.data).info
    task, _ = task_and_trainer(settings, infos[key])
    if settings.sampling.grid == ADAPTIVE and kind_of(config.family) == "draws":
        check_adaptive(task, settings.sampling)
    else:
        Sampler(task, settings.sampling)


def _check_together(points: Sequence[Point]) -> None:
    """Refuses points that do not compare, and such as are the same."""
    kinds = {point.name: kind_of(point.config.family) for point in points}
    first = points[0]
    for point in points:
        allowed = f"one that {kinds[first.name]}, as that of point {first.name!r}"
        same = kinds[point.name] == kinds[first.name]
        require(same, f"family of point {point.name!r}", point.config.family, allowed)
    texts: dict[str, str] = {}
    for point in points:
        other = texts.setdefault(config_to_json(point.config), point.name)
        if other != point.name:
            raise SettingError(
                f"points {other!r} and {point.name!r} have the same settings; allowed: points that "
                "differ in some"
            )


def kind_of(family: str) -> str:
    """What models of a family do, in a word: draws, writes or classifies."""
    return "draws" if family in GENERATIVE else "writes" if family in TEXT else "classifies"


def _with_runs(points: Sequence[Point]) -> list[Point]:
    """Points that are trained alike share a run; others do not.

    Raises:
        SettingError: if two runs would lie in one folder.
    """
    runs: dict[str, Point] = {}
    # A point that is its run as it is names it.
    for point in sorted(points, key=lambda point: bool(point.overrides)):
        runs.setdefault(config_to_json(point.training), point)
    shared = [
        dataclasses.replace(point, run=runs[config_to_json(point.training)].run) for point in points
    ]
    folders: dict[str, Point] = {}
    for point in shared:
        other = folders.setdefault(point.run, point)
        if differences := config_differences(other.training, point.training):
            raise SettingError(
                f"points {other.name!r} and {point.name!r} would be trained in one folder, "
                f"{point.run}, and differ in {differences[0]}; allowed: other names"
            )
    return shared


def is_of(config: ConfigDict, evaluation: Mapping[str, Any]) -> bool:
    """Whether an evaluation was made with a config."""
    made = complete(ConfigDict(evaluation.get("config", {})))
    return not config_differences(made, config, ignore=NOT_EVALUATED)
