"""Pages of results: every kind of file is shown, with where it comes from."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from docs.site import published, results
from docs.site.studies import Study, read_studies
from experiments import compare_output, sweep_output

ROOT = Path(__file__).parents[2]
PROVENANCE = {
    "command": "python -m experiments.compare --workdir=runs/x",
    "commit": "abc1234",
    "device": "1 x Some device",
    "python": "3.12.1",
    "jax": "0.12.0",
}
ROW = {
    "method": "DiffusionBlocks",
    "config": "configs/noprop_mnist.py:blocks",
    "family": "noprop_blocks",
    "num_blocks": 3,
    "steps": [500, 500, 500],
    "seeds": [0],
    "accuracy": 0.875,
    "accuracy_std": None,
    "accuracies": [0.875],
    "negative_log_likelihood": 0.5,
    "calibration_error": 0.1,
    "training_flops": 2_000_000,
    "prediction_flops": 1000.0,
    "seconds_per_round": 0.25,
    "train_bytes": 2048,
}
POINT = {
    "name": "num_blocks=2",
    "config": "configs/dit_digits.py",
    "settings": {"partition.num_blocks": 2, "partition.overlap": None},
    "own": ["partition.num_blocks"],
    "status": "done",
    "n": 2,
    "values": {
        "frechet_distance": {"mean": 0.25, "std": 0.0707, "values": [0.2, 0.3]},
        "train_bytes.total": {"mean": 1024.0, "std": None, "values": [1024.0]},
    },
    "runs": [{"seed": 0, "provenance": {"commit": "fff0000", "device": "a chip"}}],
}


def study(document):
    return Study("some_study", {**document, "provenance": PROVENANCE})


def cells(page):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]


def test_a_comparison():
    page = results.study_page(study({"budget": "steps", "data": "mnist", "rows": [ROW]}))
    line = cells(page)[2]
    assert line[:4] == ["DiffusionBlocks", "3", "500", "87.5%"]
    assert "2 KiB" in line and "250 ms" in line
    assert "Data: mnist. Budget: steps." in page


def test_a_comparison_of_other_columns_is_shown_as_it_is():
    page = results.study_page(study({"data": "mnist", "rows": [{**ROW, "rank": 7}]}))
    assert "rank" in cells(page)[-3]
    assert cells(page)[-1][-1] == "7"


def test_a_sweep():
    document = {"config": "configs/dit_digits.py", "sweep": "x.py", "seeds": 2, "overrides": [],
                "measures": ["frechet_distance", "train_bytes.total"], "rows": [POINT]}  # fmt: skip
    page = results.study_page(study(document))
    header, _, line = cells(page)
    assert header == ["num_blocks", "overlap", "Fréchet distance ± std", "training memory", "n"]
    assert line == ["2", "–", "0.250 ± 0.071", "1 KiB", "2"]
    assert "Runs: commit `fff0000`, a chip." in page


def test_kinds_are_those_that_programs_write():
    assert set(ROW) == {field.name for field in dataclasses.fields(compare_output.Row)}
    assert set(POINT) == {field.name for field in dataclasses.fields(sweep_output.Row)}


def test_groups_of_like_keys_stand_side_by_side():
    run = {"train_bytes": {"total": 1024**2}, "seconds_per_step": 0.5, "label_accuracy": 0.5}
    page = results.study_page(study({"blocks": run, "end_to_end": {**run, "extra": 3}}))
    assert cells(page) == [
        ["", "blocks", "end to end"],
        ["---", "---:", "---:"],
        ["train bytes: total", "1 MiB", "1 MiB"],
        ["seconds per step", "500 ms", "500 ms"],
        ["label accuracy", "50.0%", "50.0%"],
        ["extra", "–", "3"],
    ]


def test_memory():
    parts = ("parameters", "gradients", "optimizer", "average", "activations", "total")
    row = {"batch_size": 4, "num_blocks": 1, "remat": False, **dict.fromkeys(parts, 2**30)}
    rows = [{**row, "remat": remat} for remat in (False, True)]
    document = {"model": "DiT-S/2", "depth": 2, "batch_size": 4, "rows": rows}
    command = "python -m experiments.memory --size=S"
    page = results.study_page(
        Study("m", {**document, "provenance": {**PROVENANCE, "command": command}})
    )
    assert "In GiB." in page
    assert cells(page)[2][:4] == ["none", "1", "1.00", "1.00"]


def test_an_unknown_kind():
    document = {
        "texts": 3,
        "named": {"deep": {"flag": True, "nothing": None, "numbers": [1, 2], "per_second": 2.5}},
        "rows": [{"name": "a|b", "seconds": 60}, {"name": "c", "more": {"bytes": 1024}}],
        "empty": [],
    }  # fmt: skip
    page = results.study_page(study(document))
    found = {line[0]: line[1:] for line in cells(page)}
    assert found["texts"] == ["3"]
    assert found["named: deep: flag"] == ["yes"]
    assert found["named: deep: nothing"] == ["–"]
    assert found["named: deep: numbers"] == ["1, 2"]
    assert found["named: deep: per second"] == ["2.5"]
    assert "| a\\|b | 1 min | – |" in page
    assert found["c"] == ["–", "1 KiB"]
    assert page.count("commit `abc1234`") == 2


def test_every_table_is_traced():
    for one in read_studies(ROOT / "results"):
        page = results.study_page(one)
        tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
        traces = re.findall(r"(?:^\|.*\n)+\n(From .*\n`.*`\n)", page, re.MULTILINE)
        assert len(tables) == len(traces) > 0, one.name
        for trace in traces:
            for key in ("command", "commit", "device", "python", "jax"):
                assert one.provenance[key] in trace
            assert f"](../files/results/{one.name}.json)" in trace


def test_a_file_that_does_not_say_where_it_is_from_is_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"provenance": {**PROVENANCE, "commit": ""}}))
    with pytest.raises(ValueError, match=r"x.json has no commit in its provenance"):
        read_studies(tmp_path)


def test_published_figures_stand_beside_ours_of_the_same_task_only():
    row = {**ROW, "accuracy": 0.123}
    ours = study({"budget": "steps", "data": "mnist", "rows": [row]})
    other = study({"budget": "steps", "data": "fashion_mnist", "rows": [ROW]})
    page = published.page([ours, other])
    mnist = page[page.index("## NoProp's CNN, MNIST") :]
    line = next(line for line in cells(mnist) if line[0] == "DiffusionBlocks")
    assert line[1:] == ["–", "12.3%", "500 steps", "1 x Some device", "[Some study](some_study.md)"]
    assert "87.5%" not in page
    cifar = page[page.index("## DiT-S/2, CIFAR-10") : page.index("## DiT-L/2")]
    assert ["DiffusionBlocks", "30.59 / 37.20", "not measured", "–", "–", "–"] in cells(cifar)


def test_variants_of_published_tasks_exist():
    from dbjax.config import load_config

    for task in published.TASKS:
        for _, _, variant in task.rows:
            config = load_config(f"{ROOT / task.config}:{variant}", {"data.data_dir": "x"})
            assert config.data.name == task.data
