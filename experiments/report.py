"""Writes one HTML file about a run of blocks, beside its end-to-end twin if there is one.

The file holds all its figures and needs nothing else: no network, no scripts, no other file. It is
made from what experiments.train and experiments.evaluate have written to the run folders.
"""

import dataclasses
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from dbjax import classification_pictures, pictures
from dbjax.errors import require
from dbjax.masked_text import Revealing
from dbjax.refined_text import Refining
from experiments import cli
from experiments.report_runs import ClassifierRun, Run, TextRun, confused, paired, read_run

TEMPLATES = Path(__file__).parent / "templates"
TITLE = "Trained block by block"

# Rows that show how a text came to be.
REVEALED = 8
# Speed and quality of two runs of one config differ by this much, relative, from chance alone.
ABOUT_EQUAL = 0.03


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("report", __doc__ or "")
    parser.epilog = None
    parser.add_argument(
        "--workdir", metavar="DIR", type=Path, required=True, nargs="+", help="one or two runs"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="HTML to write")
    parser.add_argument("--title", default=TITLE, help="heading of the page")
    args, overrides = cli.parse(parser, arguments)
    require(
        not overrides, "an override of the config", overrides[:1], "none: a report trains nothing"
    )
    write_report(args.workdir, args.out, args.title)
    print(f"wrote {args.out}")


def write_report(workdirs: Sequence[Path], out: Path, title: str = TITLE) -> None:
    """Writes the report on one run, or on two side by side.

    Args:
        workdirs: run folders that have been evaluated; the one of more blocks comes first.
        out: the HTML file to write; its folder is made if need be.
        title: heading of the page.

    Raises:
        SettingError: if a folder has not been trained or evaluated, or the runs do not compare.
    """
    require(len(workdirs) in (1, 2), "number of --workdir", len(workdirs), "1 or 2")
    require(not out.is_dir(), "--out", str(out), "a file")
    runs = sorted(map(read_run, workdirs), key=lambda run: -run.num_blocks)
    data = sorted({run.config["data"]["name"] for run in runs})
    require(len(data) == 1, "data.name of the runs", data, "the same data for both")
    families = [run.config["family"] for run in runs]
    alike = len({type(run) for run in runs}) == 1
    require(
        alike, "family of the runs", families, "both generative, or both classifiers, or both text"
    )
    for key, option in (("frechet_features", "features"), ("num_real", "num_real")):
        found = {run.evaluation[key] for run in runs if key in run.evaluation}
        allowed = f"one for both, of experiments.evaluate with the same --{option}"
        require(len(found) <= 1, f"{key} of the runs", sorted(found), allowed)
    tails = _tails([run.folder.resolve() for run in runs])
    if len({run.name for run in runs}) < len(runs):
        runs = [
            dataclasses.replace(run, name=f"{run.name} ({tail})")
            for run, tail in zip(runs, tails, strict=True)
        ]
    run, other = runs[0], runs[1] if len(runs) == 2 else None
    environment = page_environment()
    environment.filters.update(
        bytes=show_bytes,
        seconds=show_seconds,
        number=show_number,
        percent=show_percent,
        value=Run.value,
    )
    particular: dict[str, Any] = {"page": "generative.html.j2", "evaluated_by": "num_samples"}
    if isinstance(run, ClassifierRun):
        assert other is None or isinstance(other, ClassifierRun)
        particular = {
            "page": "classification.html.j2",
            "evaluated_by": "num_noises",
            "paired": other and paired(run, other),
            "confused": confused(run.predictions["confusion"]),
            "guessing": math.log(run.evaluation["num_classes"]),
        }
    if isinstance(run, TextRun):
        particular |= {"page": "text.html.j2", "steps_of": steps_of}
    html: str = environment.get_template("report.html.j2").render(
        **particular,
        title=title,
        run=run,
        other=other,
        runs=runs,
        again={run.folder: f"again/{tail}" for run, tail in zip(runs, tails, strict=True)},
        times=times,
        verdict=verdict,
        about_equal=ABOUT_EQUAL,
        figures=figures(run, other),
        colour=pictures.block_colour,
        level="σ" if run.noise.level_name == "sigma" else run.noise.level_name,
        settings=_beside([_flatten(r.config) for r in runs]),
        provenance=_beside([r.evaluation["provenance"] for r in runs]),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html.strip() + "\n", encoding="utf-8")


def _tails(folders: Sequence[Path]) -> list[Path]:
    """The ends of paths, as short as tells them apart."""
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        tails = [Path(*folder.parts[-length:]) for folder in folders]
        if len(set(tails)) == len(folders):
            return tails
    return list(folders)


def page_environment() -> Environment:
    """Templates of self-contained pages."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


# --- numbers in words -----------------------------------------------------------------------------


def verdict(ours: float, theirs: float, less_is_better: bool = True) -> str:
    """`better`, `worse` or `about equal`, of the first against the second."""
    if abs(ours - theirs) <= ABOUT_EQUAL * abs(theirs):
        return "about equal"
    return "better" if (ours < theirs) == less_is_better else "worse"


def times(ours: float, theirs: float, less: str = "less", more: str = "more") -> str:
    """How many times less or more ours is than theirs, in words."""
    if not ours or not theirs or abs(ours / theirs - 1) <= ABOUT_EQUAL:
        return "about equal"
    ratio = ours / theirs
    return f"{max(ratio, 1 / ratio):.2g}× {less if ratio < 1 else more}"


def show_bytes(value: float) -> str:
    """In the largest unit, of 1024 of the one before, that leaves a number of 1 or more."""
    power = sum(value >= 1024**p for p in (1, 2, 3, 4))
    return f"{show_number(value / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def show_seconds(value: float, digits: int = 3) -> str:
    """In the unit people would use."""
    for unit, name in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if value >= unit:
            return f"{show_number(value / unit, digits)} {name}"
    return f"{show_number(value / 1e-6, digits)} µs"


def show_number(value: float, digits: int = 3) -> str:
    """So many significant digits; whole numbers in full."""
    if math.isinf(value):
        return "∞"
    if value == int(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def show_percent(value: float) -> str:
    return f"{100 * value:.1f}%"


# --- figures and tables ---------------------------------------------------------------------------


def figures(run: Run, other: Run | None) -> dict[str, Markup]:
    """Inline SVG by name: those for which the runs have what they show."""
    theirs: Mapping[str, Any] = {} if other is None else other.evaluation
    name = "" if other is None else other.name
    beside = other is not None and other.loss == run.loss
    found = {
        "losses": to_svg(
            pictures.loss_figure(
                run.journal, other.journal if other and beside else (), name, meaning=run.loss
            ),
            "Training loss over steps",
        )
    }
    if "loss_over_noise" in run.evaluation:
        found["partition"] = to_svg(
            pictures.partition_figure(run.partition, run.noise, run.grid),
            "The training density over the noise level, divided among the blocks",
        )
        found["loss_over_noise"] = to_svg(
            pictures.loss_over_noise_figure(
                run.evaluation["loss_over_noise"],
                theirs.get("loss_over_noise", ()) if beside else (),
                name,
                meaning=run.loss,
                level=run.noise.level_name,
            ),
            "Loss over the noise level",
        )
    if isinstance(run, ClassifierRun):
        assert other is None or isinstance(other, ClassifierRun)
        found |= _answers(run, other)
    return found


def _answers(run: ClassifierRun, other: ClassifierRun | None) -> dict[str, Markup]:
    """Figures of a classifier."""
    name = other.name if other else ""
    found = {
        "reliability": to_svg(
            classification_pictures.reliability_figure(
                run.reliability, run.name, other.reliability if other else None, name
            ),
            "Share of right predictions by confidence",
        ),
        "confusion": to_svg(
            classification_pictures.confusion_figure(run.predictions["confusion"]),
            "Test images by class and prediction",
        ),
    }
    diagnostics = run.evaluation.get("diagnostics")
    if diagnostics:
        found["walk"] = to_svg(
            classification_pictures.walk_figure(
                diagnostics["walk"],
                1 / run.evaluation["num_classes"],
                other.evaluation["accuracy"] if other else None,
                name,
            ),
            "Accuracy after every step of the walk",
        )
        found["effort"] = to_svg(
            classification_pictures.effort_figure(
                diagnostics["by_num_steps"],
                diagnostics["by_num_noises"],
                len(run.grid.levels),
            ),
            "Accuracy over the layers run for a prediction",
        )
        if diagnostics["without_block"]:
            found["without_block"] = to_svg(
                classification_pictures.leave_out_figure(
                    diagnostics["without_block"], diagnostics["walk"][-1]["accuracy"]
                ),
                "Accuracy without each of the blocks",
            )
    return found


def steps_of(found: Revealing | Refining) -> list[dict[str, Any]]:
    """Rows of how a text came to be: each colours what is new in it, and the last one all."""
    if isinstance(found, Refining):
        last = len(found.blocks)
        shown = np.linspace(1, last, min(last, REVEALED)).round().astype(int).tolist()
        return [
            {"name": f"step {step}", "masked": None, "spans": found.spans(step)} for step in shown
        ]
    steps = found.shown_steps(REVEALED)
    rows = [
        {
            "name": f"after step {step}",
            "masked": found.masked(step),
            "spans": found.spans(step, before),
        }
        for before, step in itertools.pairwise([0, *steps])
    ]
    return [*rows, {"name": "all, by block", "masked": None, "spans": found.spans(steps[-1])}]


def to_svg(figure: Figure, label: str) -> Markup:
    """A figure as SVG inside HTML: sized by the page, text in the page's font and colour."""
    buffer = io.StringIO()
    # Ids are hashed with the salt: two figures on a page must not share any.
    with matplotlib.rc_context({**pictures.STYLE, "svg.hashsalt": label}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(pictures.INK, "currentColor", body, flags=re.IGNORECASE)
    return Markup(f'<svg {box.group()} role="img" aria-label="{label}">{body}')


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        result |= _flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return result


def _beside(tables: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows (key, values): one value where all tables agree."""
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        values = [str(table.get(key, "-")) for table in tables]
        rows.append((key, values[:1] if len(set(values)) == 1 else values))
    return rows


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
