"""The table of a sweep: what was varied, and what came of it."""

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dbjax.workdir import write_whole
from experiments.provenance import provenance
from experiments.report import (
    page_environment,
    show_bytes,
    show_number,
    show_percent,
    show_seconds,
    to_svg,
)
from experiments.sweep_figure import Mark, sweep_figure
from experiments.sweep_points import Point, Trial, config_name, kind_of, show, value_of, varying
from experiments.sweep_run import evaluation, failure
from experiments.tables import aligned_table, markdown_table, save_figure

MEASURES = {
    "classifies": ("accuracy",),
    "draws": ("frechet_distance", "label_accuracy"),
    "writes": (
        "nats_per_token",
        "bits_per_character",
        "generated.perplexity",
        "generated.distinct_2",
    ),
}
"""Keys of evaluation.json by what models do, the main one first."""
COSTS = ("layer_evaluations_per_sample", "train_bytes.total", "seconds_per_step")
LABELS = {
    "frechet_distance": "Fréchet distance",
    "held_out.nats_per_value": "held-out nats per value",
    "walk.nats_per_token": "nats per token, whole walk",
    "generated.perplexity": "perplexity of samples",
    "generated.distinct_2": "distinct-2",
    "layer_evaluations_per_sample": "layers per sample",
    "train_bytes.total": "training memory",
    "seconds_per_step": "time of a step",
}
DONE = "done"


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of a point, over all its seeds.

    Attributes:
        name: its name.
        config: its file and variant.
        settings: its value of each setting that varies, set by itself or not; None is none.
        own: those that it sets itself.
        status: `done`, `not run`, `failed: ` and why, or how many seeds are done.
        n: seeds that are done.
        values: of each measure, one for each seed that is done and has it.
        runs: seed, folder and evaluation (in the sweep's folder), status and provenance of each.
    """

    name: str
    config: str
    settings: Mapping[str, Any]
    own: Sequence[str]
    status: str
    n: int
    values: Mapping[str, Sequence[float]]
    runs: Sequence[Mapping[str, Any]]

    def mean(self, measure: str) -> float | None:
        """Over seeds; None without any."""
        values = self.values[measure]
        return statistics.fmean(values) if values else None

    def std(self, measure: str) -> float | None:
        """Sample standard deviation over seeds; None of fewer than two."""
        values = self.values[measure]
        return statistics.stdev(values) if len(values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Table:
    """All rows of a sweep.

    Attributes:
        rows: one for each point.
        settings: that vary, by key, with their short names.
        measures: keys of evaluation.json, the main one first, then costs.
        seeds: asked for.
    """

    rows: Sequence[Row]
    settings: Mapping[str, str]
    measures: Sequence[str]
    seeds: int

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Header and lines, to be read by people."""
        # The settings say all there is to a name that is made of them.
        named = not self.settings or any(row.name != self._default_name(row) for row in self.rows)
        finished = all(row.status == DONE for row in self.rows)
        spread = any(row.std(self.measures[0]) is not None for row in self.rows)
        header = [
            *(["point"] if named else []),
            *self.settings.values(),
            *(label(key) + (" ± std" if spread and key not in COSTS else "")
              for key in self.measures),
            *(["n"] if self.seeds > 1 else []),
            *([] if finished else ["status"]),
        ]  # fmt: skip
        lines = [
            [
                *([row.name] if named else []),
                *(show_setting(row.settings[key]) for key in self.settings),
                *(self._shown(row, key) for key in self.measures),
                *([str(row.n)] if self.seeds > 1 else []),
                *([] if finished else [row.status]),
            ]
            for row in self.rows
        ]
        return header, lines

    def _default_name(self, row: Row) -> str:
        return " ".join(
            f"{short}={show(row.settings[key])}"
            for key, short in self.settings.items()
            if key in row.own
        )

    def _shown(self, row: Row, measure: str) -> str:
        mean = row.mean(measure)
        if mean is None:
            return "–"
        return show_measure(measure, mean, None if measure in COSTS else row.std(measure))


def make_table(
    points: Sequence[Point],
    trials: Sequence[Trial],
    measures: Sequence[str],
    options: Mapping[str, int],
    workdir: Path,
) -> Table:
    """Reads what the trials have left behind.

    Args:
        points: of the sweep.
        trials: of these points.
        measures: keys of evaluation.json; none is the usual for what these models do.
        options: of `experiments.evaluate`, by name.
        workdir: the sweep's.
    """
    keys = dict(varying([point.settings for point in points]))
    wanted = list(
        dict.fromkeys((*(measures or MEASURES[kind_of(points[0].config.family)]), *COSTS))
    )
    found = {trial.log: evaluation(trial, options) for trial in trials}
    # Evaluations of one run, and of other seeds, need not all say what training costs.
    full: dict[tuple[Path, str], float] = {}
    for trial in trials:
        for key in COSTS:
            value = measured(found[trial.log], key)
            if value is not None:
                full.setdefault((trial.folder, key), value)
    rows = []
    for point in points:
        own = [trial for trial in trials if trial.point is point]
        done = [(trial, one) for trial in own if (one := found[trial.log]) is not None]
        values = {}
        for key in wanted:
            each = [(measured(one, key), full.get((trial.folder, key))) for trial, one in done]
            values[key] = [
                value
                for own_value, of_run in each
                if (value := of_run if own_value is None else own_value) is not None
            ]
        rows.append(
            Row(
                name=point.name,
                config=point.file,
                settings={key: value_of(point.config, key) for key in keys},
                own=list(point.settings),
                status=_status_of_all([_status(trial, found[trial.log]) for trial in own]),
                n=len(done),
                values=values,
                runs=[
                    {
                        "seed": trial.config.seed,
                        "folder": str(trial.folder.relative_to(workdir)),
                        "evaluation": str((trial.out / "evaluation.json").relative_to(workdir)),
                        "status": _status(trial, one),
                        "provenance": one and one["provenance"],
                    }
                    for trial in own
                    for one in [found[trial.log]]
                ],
            )
        )
    # What none of them has, such as label accuracy of points, nobody asked for.
    shown = [key for key in wanted if key in measures or any(row.values[key] for row in rows)]
    main = wanted[0]
    return Table(rows, keys, shown if main in shown else [main, *shown], len(trials) // len(points))


def write_output(table: Table, folder: Path, title: str, facts: Mapping[str, Any]) -> None:
    """Writes sweep.json, table.csv, table.md, table.html, figure.png and figure.svg.

    Args:
        table: of the sweep.
        folder: the sweep's.
        title: heading of the page.
        facts: on the sweep, for sweep.json and the page: `config`, `sweep`, `seeds`, `overrides`,
            and options of `experiments.evaluate`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            **dataclasses.asdict(row),
            "values": {
                key: {"mean": row.mean(key), "std": row.std(key), "values": row.values[key]}
                for key in table.measures
            },
        }
        for row in table.rows
    ]
    summary = {**facts, "measures": list(table.measures), "rows": rows, "provenance": provenance()}
    write_whole(folder / "sweep.json", json.dumps(summary, indent=2) + "\n")
    write_whole(folder / "table.csv", csv_text(table))
    header, lines = table.cells()
    write_whole(folder / "table.md", markdown_table(header, lines))
    main = table.measures[0]
    figure = _figure(table, facts["config"])
    save_figure(figure, folder)
    html = page_environment().get_template("sweep.html.j2").render(
        title=title,
        header=header,
        lines=[(row, cells) for row, cells in zip(table.rows, lines, strict=True)],
        figure=to_svg(figure, f"{label(main)} of each point"),
        figure_of=label(main),
        seeds=table.seeds,
        facts=facts,
        provenance=summary["provenance"],
    )  # fmt: skip
    write_whole(folder / "table.html", html.strip() + "\n")


def _figure(table: Table, config: str) -> Figure:
    """The main measure; `config` is the one that is swept."""
    main = table.measures[0]
    marks = []
    for row in table.rows:
        own = {key: row.settings[key] for key in table.settings if key in row.own}
        if row.config != config:
            own["config"] = config_name(row.config)
        marks.append(Mark(row.name, own, row.values[main], row.status))
    names = {"config": "config", **table.settings}
    return sweep_figure(marks, names, label(main), lambda value: show_tick(main, value))


def csv_text(table: Table) -> str:
    """One line for each point, numbers in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    spread = [f"{key}{part}" for key in table.measures for part in ("", "_std")]
    writer.writerow(["name", "config", *table.settings, *spread, "n", "status"])
    for row in table.rows:
        numbers = [x for key in table.measures for x in (row.mean(key), row.std(key))]
        settings = [show(row.settings[key]) for key in table.settings]
        writer.writerow([row.name, row.config, *settings, *numbers, row.n, row.status])
    return buffer.getvalue()


def text_table(table: Table) -> str:
    """Aligned columns, a line for each point."""
    return aligned_table(*table.cells())


def measured(found: Mapping[str, Any] | None, key: str) -> float | None:
    """A number of an evaluation by its dotted key; None where there is none."""
    value: Any = found
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else None


def label(measure: str) -> str:
    """A measure in words."""
    return LABELS.get(measure, measure.rpartition(".")[2].replace("_", " "))


def show_setting(value: Any) -> str:
    return "–" if value is None else show(value)


def show_measure(measure: str, mean: float, std: float | None = None) -> str:
    """A number in its unit; of a spread, two digits, and of its mean as many decimals."""
    if measure.endswith("accuracy"):
        return show_percent(mean) if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}%"
    units = {"train_bytes": show_bytes, "seconds_per_step": show_seconds}
    number = units.get(measure.partition(".")[0], show_number)
    if std is None:
        return number(mean)
    if number is show_number and 0 < std < math.inf:
        decimals = min(max(1 - math.floor(math.log10(std)), 0), 6)
        return f"{mean:,.{decimals}f} ± {std:,.{decimals}f}"
    return f"{number(mean)} ± {number(std)}"


def show_tick(measure: str, value: float) -> str:
    """A number on an axis, without zeros that say nothing."""
    return f"{100 * value:.4g}%" if measure.endswith("accuracy") else show_measure(measure, value)


def describe(points: Sequence[Point]) -> str:
    """One line on what is about to be run."""
    runs = len({point.run for point in points})
    configs = ", ".join(dict.fromkeys(config_name(point.file) for point in points))
    return f"{len(points)} points of {configs}, {runs} of them trained"


def _status(trial: Trial, found: Mapping[str, Any] | None) -> str:
    if found is not None:
        return DONE
    reason = failure(trial)
    return "not run" if reason is None else f"failed: {reason}"


def _status_of_all(each: Sequence[str]) -> str:
    """Of all seeds of a point."""
    failed = [status for status in each if status.startswith("failed")]
    if failed:
        return failed[0]
    done = each.count(DONE)
    return each[0] if done in (0, len(each)) else f"{done} of {len(each)} seeds"
