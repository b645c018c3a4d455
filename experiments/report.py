"""Writes one HTML file about a run of blocks, beside its end-to-end twin if there is one.

The file holds all its figures and needs nothing else: no network, no scripts, no other file. It is
made from what experiments.train and experiments.evaluate have written to the run folders.
"""

import base64
import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from dbjax import pictures
from dbjax.build import GENERATIVE
from dbjax.config import section
from dbjax.errors import SettingError, require
from dbjax.monitor import read_journal
from dbjax.noise import LogNormalNoise
from dbjax.partition import Grid, Partition, PartitionConfig, make_partition, sampling_grid
from dbjax.sampling import SamplingConfig
from dbjax.workdir import read_config
from experiments import cli

TEMPLATES = Path(__file__).parent / "templates"
TITLE = "Trained block by block"
FAMILIES = {"dit": "diffusion transformer", "mlp": "residual MLP"}

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
    if len({run.name for run in runs}) < len(runs):
        runs = [
            dataclasses.replace(run, name=f"{run.name} ({run.folder.resolve().name})")
            for run in runs
        ]
    run, other = runs[0], runs[1] if len(runs) == 2 else None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=show_bytes,
        seconds=show_seconds,
        number=show_number,
        percent=show_percent,
        value=Run.value,
    )
    html: str = environment.get_template("report.html.j2").render(
        title=title,
        run=run,
        other=other,
        runs=runs,
        family=FAMILIES.get(run.config["family"], run.config["family"]),
        times=times,
        verdict=verdict,
        about_equal=ABOUT_EQUAL,
        figures=figures(run, other),
        colour=pictures.block_colour,
        settings=_beside([_flatten(r.config) for r in runs]),
        provenance=_beside([r.evaluation["provenance"] for r in runs]),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html.strip() + "\n", encoding="utf-8")


# --- what a run has left behind -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """One run as its folder tells it.

    Attributes:
        folder: where it lies, as the user named it.
        name: what to call it.
        config: sections and their settings.
        evaluation: `evaluation.json`.
        journal: rows of its blocks' `metrics.jsonl`.
        noise, partition, grid: as it was trained and sampled.
        is_points: whether samples are points of a plane and not images.
        is_labelled: whether samples were drawn of given classes.
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    journal: Sequence[Mapping[str, Any]]
    noise: LogNormalNoise
    partition: Partition
    grid: Grid
    is_points: bool
    is_labelled: bool

    @property
    def num_blocks(self) -> int:
        return self.partition.num_blocks

    @property
    def steps(self) -> list[int]:
        """Each block's own steps."""
        return [int(step) for step in self.evaluation["steps"].values()]

    def value(self, key: str) -> Any:
        """A measured value, by its key in `evaluation.json` with dots between levels.

        One more is made of them: `train_seconds`, all steps of all blocks, one after another.
        """
        if key == "train_seconds":
            return sum(self.steps) * self.evaluation["seconds_per_step"]
        value = self.evaluation
        for name in key.split("."):
            value = value[name]
        return value

    def picture(self, name: str) -> str:
        """`samples/<name>.png` as a data URL."""
        png = (self.folder / "samples" / f"{name}.png").read_bytes()
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def read_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        SettingError: if it has not been trained, or not evaluated.
    """
    config = read_config(folder)
    allowed = f"{' or '.join(GENERATIVE)}, whose samples a report shows"
    require(config.family in GENERATIVE, f"family of {folder}", config.family, allowed)
    drawn = ("samples.npz", "samples.png", "real.png", "path.png")
    needed = ["evaluation.json", *(f"samples/{name}" for name in drawn)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise SettingError(f"{folder} has no {missing[0]}; run experiments.evaluate first")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    noise = section(LogNormalNoise, config, "noise")
    sampling = section(SamplingConfig, config, "sampling")
    partition = make_partition(
        section(PartitionConfig, config, "partition"), noise, sum(evaluation["layers"])
    )
    blocks = partition.num_blocks
    with zipfile.ZipFile(folder / "samples" / "samples.npz") as arrays:
        # The header alone: there may be 50,000 images behind it.
        with arrays.open("image.npy") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        is_labelled = "label.npy" in arrays.namelist()
    return Run(
        folder=folder,
        name="end to end" if blocks == 1 else f"{blocks} blocks",
        config=config.to_dict(),
        evaluation=evaluation,
        journal=read_journal(folder),
        noise=noise,
        partition=partition,
        grid=sampling_grid(partition, noise, sampling.num_steps, sampling.grid),
        is_points=len(shape) == 2,
        is_labelled=is_labelled,
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
    if value == int(value) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def show_percent(value: float) -> str:
    return f"{100 * value:.1f}%"


# --- figures and tables ---------------------------------------------------------------------------


def figures(run: Run, other: Run | None) -> dict[str, Markup]:
    """Inline SVG by name."""
    theirs: Mapping[str, Any] = {} if other is None else other.evaluation
    name = "" if other is None else other.name
    return {
        "partition": to_svg(
            pictures.partition_figure(run.partition, run.noise, run.grid),
            "The training density over the noise level, divided among the blocks",
        ),
        "losses": to_svg(
            pictures.loss_figure(run.journal, other.journal if other else (), name),
            "Training loss over steps",
        ),
        "loss_over_noise": to_svg(
            pictures.loss_over_noise_figure(
                run.evaluation["loss_over_noise"], theirs.get("loss_over_noise", ()), name
            ),
            "Loss over the noise level",
        ),
    }


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
