"""What has been measured: the files of results/, each with its tables."""

import dataclasses
import json
import re
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docs.site.tables import tables
from docs.site.text import ROOT
from experiments import compare_output, memory, sweep_output
from experiments.sweep_points import short_names
from experiments.tables import markdown_table

UNCHANGED_BY = ("placement.", "training.save_every")
"""Settings that change no result."""
NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "dit": "DiT", "l2": "L/2", "lm1b": "LM1B",
         "mnist": "MNIST", "s2": "S/2", "vit": "ViT"}  # fmt: skip
"""Words in names of files that people write in another way."""
STEPS = "training.steps"
TRACED = ("command", "commit", "device", "python", "jax")


@dataclasses.dataclass(frozen=True)
class Study:
    """A file of results.

    Attributes:
        name: of the file, without its ending.
        document: what it holds.
    """

    name: str
    document: Mapping[str, Any]

    @property
    def title(self) -> str:
        words = " ".join(NAMES.get(word, word) for word in self.name.split("_"))
        return words[0].upper() + words[1:]

    @property
    def provenance(self) -> Mapping[str, str]:
        return self.document["provenance"]

    @property
    def program(self) -> str:
        """The module of experiments/ that made it."""
        match = re.search(r"-m experiments\.(\w+)", self.provenance["command"])
        return match[1] if match else ""

    @property
    def configs(self) -> list[str]:
        """Files in configs/ that it says it used."""
        found = re.findall(r"configs/[\w/]+\.py", json.dumps(self.document))
        return list(dict.fromkeys(found))

    def tables(self) -> str:
        """All its figures, in Markdown."""
        for is_of, render in KINDS:
            if is_of(self.document):
                return render(self.document)
        return tables({k: x for k, x in self.document.items() if k not in ("provenance", "config")})

    def measured(self) -> "list[Measured]":
        """Its main figure for each config; none in files of other kinds."""
        if is_comparison(self.document):
            return [
                Measured(
                    self,
                    config=row.config,
                    data=self.document["data"],
                    name=row.method,
                    measure="accuracy",
                    value=compare_output.show_accuracy(row),
                    budget="+".join(f"{n:,}" for n in dict.fromkeys(row.steps)) + " steps",
                    overrides=self._overrides(row.method),
                )
                for row in comparison_rows(self.document)
            ]
        if is_sweep(self.document):
            table = sweep_table(self.document)
            main = table.measures[0]
            return [
                Measured(
                    self,
                    config=row.config,
                    data="",
                    name=row.name,
                    measure=sweep_output.label(main),
                    value=sweep_output.show_measure(main, mean, row.std(main)),
                    budget=f"{steps} steps" if (steps := row.settings.get(STEPS)) else "see there",
                    overrides=", ".join([*self.document["overrides"], row.name]),
                )
                for row in table.rows
                if (mean := row.mean(main)) is not None
            ]
        return []

    def _overrides(self, method: str) -> str:
        """What the file of methods sets, other than the config says."""
        match = re.search(r"--methods[= ](\S+)", self.provenance["command"])
        if not match or not (ROOT / match[1]).exists():
            return ""
        methods = runpy.run_path(str(ROOT / match[1]))["get_methods"]()
        changed = methods.get(method, ("", {}))[1]
        return ", ".join(
            f"{k}={x}".replace(", ", ",")
            for k, x in changed.items()
            if not k.startswith(UNCHANGED_BY)
        )


@dataclasses.dataclass(frozen=True)
class Measured:
    """One figure of a study.

    Attributes:
        study: that it is from.
        config: file and variant.
        data: that it was measured on; empty for that of the config.
        name: of the method, or of the point.
        measure: in words.
        value: as shown.
        budget: of its training.
        overrides: what was set otherwise than the config says.
    """

    study: Study
    config: str
    data: str
    name: str
    measure: str
    value: str
    budget: str
    overrides: str


def read_studies(folder: Path) -> list[Study]:
    """All files of results, by name.

    Raises:
        ValueError: for a file that does not say where it comes from.
    """
    studies = []
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text())
        said = document.get("provenance", {}) if isinstance(document, dict) else {}
        missing = [key for key in TRACED if not said.get(key)]
        if missing:
            raise ValueError(f"{path} has no {', '.join(missing)} in its provenance")
        studies.append(Study(path.stem, document))
    return studies


def is_comparison(document: Mapping[str, Any]) -> bool:
    fields = {field.name for field in dataclasses.fields(compare_output.Row)}
    return _all_rows(document, lambda row: set(row) == fields)


def comparison_rows(document: Mapping[str, Any]) -> list[compare_output.Row]:
    return [compare_output.Row(**row) for row in document["rows"]]


def is_sweep(document: Mapping[str, Any]) -> bool:
    fields = {field.name for field in dataclasses.fields(sweep_output.Row)}
    return "measures" in document and _all_rows(document, lambda row: set(row) == fields)


def sweep_table(document: Mapping[str, Any]) -> sweep_output.Table:
    rows = [
        sweep_output.Row(
            **{**row, "values": {key: found["values"] for key, found in row["values"].items()}}
        )
        for row in document["rows"]
    ]
    keys = [key for row in rows for key in row.settings]
    return sweep_output.Table(
        rows, dict(short_names(list(dict.fromkeys(keys)))), document["measures"], document["seeds"]
    )


def _all_rows(document: Mapping[str, Any], fits: Callable[[Mapping[str, Any]], bool]) -> bool:
    rows = document.get("rows")
    return isinstance(rows, list) and bool(rows) and all(map(fits, rows))


def _comparison(document: Mapping[str, Any]) -> str:
    about = f"Data: {document['data']}. Budget: {document['budget']}.\n\n"
    return about + markdown_table(*compare_output.cells(comparison_rows(document)))


def _sweep(document: Mapping[str, Any]) -> str:
    table = sweep_table(document)
    made = sorted(
        {
            f"commit `{of['commit']}`, {of['device']}"
            for row in table.rows
            for run in row.runs
            if (of := run["provenance"])
        }
    )
    return f"{markdown_table(*table.cells())}\nRuns: {'; '.join(made) or 'none'}.\n"


def _is_memory(document: Mapping[str, Any]) -> bool:
    return document["provenance"]["command"].startswith("python -m experiments.memory ")


KINDS: tuple[tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], str]], ...]
KINDS = (
    (is_comparison, _comparison),
    (is_sweep, _sweep),
    (_is_memory, lambda document: f"In GiB.\n\n{memory.render(dict(document))}\n"),
)
"""What tells a kind of file, and how it is shown; all others are shown as what JSON they are."""
