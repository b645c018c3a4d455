"""The comparison: one whole run, its outputs, resuming it, budgets, refusals, the figure."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from dbjax.config import load_config
from dbjax.errors import SettingError
from experiments import cli, compare, compare_methods, evaluate, evaluate_classifier, train
from experiments.compare_output import Row, comparison_figure, show_flops, text_table

BLOCKS, TWIN = "configs/vit_digits.py:blocks", "configs/vit_digits.py:end_to_end"
TINY = [
    "--config.model.width=12",
    "--config.model.num_heads=2",
    "--config.model.mlp_hidden=4",
    "--config.model.patch_size=4",
    "--config.data.batch_size=4",
    "--config.placement.name=sequential",
    "--config.placement.steps_per_dispatch=1",
]


METHODS = [
    (
        "blocks",
        (BLOCKS, {"model.depth": 2, "partition.num_blocks": 2, "sampling.num_steps": 2}),
    ),
    ("the twin", (TWIN, {"model.depth": 1})),
]


def arguments(folder):
    file = folder / "methods.py"
    file.write_text(f"def get_methods():\n    return dict({METHODS!r})\n")
    return [f"--methods={file}", f"--workdir={folder / 'runs'}", "--steps=3", "--seeds=2", *TINY]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_compilation):
    """A comparison of two methods that has been made; its folder and arguments."""
    folder = tmp_path_factory.mktemp("compare")
    given = arguments(folder)
    with pytest.MonkeyPatch.context() as patch:
        # What takes long to compile and is tested elsewhere.
        patch.setattr(evaluate_classifier, "diagnose", lambda *_, **__: {})
        patch.setattr(evaluate, "loss_over_noise", lambda *_: [])
        patch.setattr(evaluate, "seconds_per_step", lambda setups: dict.fromkeys(setups, 0.25))
        patch.setattr(evaluate, "train_bytes", lambda setup: {"total": 2**20})
        compare.main(given)
    return folder / "runs", given


def test_every_run_is_an_ordinary_one_and_the_table_tells_of_all(finished):
    folder, _ = finished
    summary = json.loads((folder / "compare.json").read_text())
    assert summary["budget"] == "steps"
    assert summary["data"] == "digits"
    assert "jax" in summary["provenance"]
    blocks, twin = summary["rows"]
    assert [row["method"] for row in (blocks, twin)] == ["blocks", "the twin"]
    assert (blocks["num_blocks"], twin["num_blocks"]) == (2, 1)
    assert (blocks["steps"], twin["steps"]) == ([3, 3], [3])
    for slug, row in (("blocks", blocks), ("the_twin", twin)):
        assert row["seeds"] == [0, 1]
        evaluations = [
            json.loads((folder / slug / f"seed_{seed}" / "evaluation.json").read_text())
            for seed in row["seeds"]
        ]
        accuracies = [found["accuracy"] for found in evaluations]
        assert row["accuracies"] == accuracies
        assert row["accuracy"] == pytest.approx(np.mean(accuracies))
        assert row["accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
        assert row["train_bytes"] == 2**20
        assert row["seconds_per_round"] == row["num_blocks"] * 0.25
    # Two blocks of one layer each, beside one layer.
    assert 2 <= blocks["training_flops"] / twin["training_flops"] < 3
    assert 2 <= blocks["prediction_flops"] / twin["prediction_flops"] < 3
    # Seeds differ, methods of one seed have the same.
    weights = {
        (path.parent.parent.name, path.parent.name): json.loads(path.read_text())["seed"]
        for path in folder.glob("*/seed_*/config.json")
    }
    assert weights == {(s, f"seed_{i}"): i for s in ("blocks", "the_twin") for i in (0, 1)}


def test_the_table_and_the_figure_are_written(finished):
    folder, _ = finished
    markdown = (folder / "table.md").read_text().splitlines()
    assert len(markdown) == 4
    assert len({line.count("|") for line in markdown}) == 1
    with (folder / "table.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["steps"] for row in table] == ["3 3", "3"]
    svg = (folder / "figure.svg").read_text()
    assert svg.count("the twin") == 2
    assert (folder / "figure.png").stat().st_size > 0


def test_a_second_call_trains_nothing(finished, monkeypatch, capsys):
    folder, given = finished
    kept = json.loads((folder / "compare.json").read_text())
    found = {path: json.loads((path / "evaluation.json").read_text()) for path in runs(folder)}
    monkeypatch.setattr(train, "main", None)
    monkeypatch.setattr(
        compare, "evaluate", lambda setups, **_: {path: found[path] for path in setups}
    )
    compare.main(given)
    assert json.loads((folder / "compare.json").read_text())["rows"] == kept["rows"]
    output = capsys.readouterr().out
    assert "1 of 4: blocks, seed_0" in output
    assert "the twin " in output.splitlines()[-3]


def test_a_stopped_run_goes_on_and_the_others_follow(finished, monkeypatch, tmp_path):
    asked = []

    def stopped(arguments):
        asked.extend(arguments)

    monkeypatch.setattr(train, "main", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare.main(arguments(tmp_path))
    assert asked == [f"--workdir={tmp_path / 'runs' / 'blocks' / 'seed_0'}"]


def test_another_budget_is_not_mixed_in(finished, refuse):
    folder, given = finished
    sentence = refuse(*given, "--steps=4")
    assert re.search(r"training\.steps for .*seed_0 is 4; allowed: 3, as of the run", sentence)
    sentence = refuse(*given, "--config.optimizer.learning_rate=0.5")
    assert "optimizer.learning_rate" in sentence
    assert json.loads((folder / "blocks/seed_0/config.json").read_text())["training"]["steps"] == 3


def runs(folder):
    return [path.parent for path in folder.glob("*/seed_*/evaluation.json")]


def method(name, steps, *flops):
    config = load_config(TWIN, {"training.steps": steps})
    return compare_methods.Method(name, TWIN, config, flops)


def test_the_budget_of_steps_is_that_of_each_config():
    methods = [method("a", 100, 5, 5), method("b", 30, 7)]
    assert compare_methods.budget_steps(methods, "steps") == {"a": 100, "b": 30}


def test_the_budget_of_compute_is_what_the_first_method_spends():
    methods = [method("a", 100, 5, 5), method("b", 30, 8), method("c", 30, 10, 20, 10)]
    steps = compare_methods.budget_steps([*methods, method("d", 1, 10**6)], "compute")
    assert steps == {"a": 100, "b": 125, "c": 25, "d": 1}


def test_steps_and_overrides_reach_every_config():
    overrides = [*TINY, "--config.training.steps=7"]
    blocks, twin = compare_methods.read_methods(METHODS, overrides)
    assert (blocks.config.training.steps, twin.config.training.steps) == (7, 7)
    assert blocks.config.partition.num_blocks == 2
    assert blocks.config.model.width == twin.config.model.width == 12
    assert len(blocks.flops) == 2 and blocks.flops[0] == blocks.flops[1]
    later = blocks.seeded(2, 9)
    assert (later.seed, later.training.steps, blocks.config.seed) == (2, 9, 0)


def test_names_come_from_the_command_line_or_the_file():
    found = compare_methods.named([f"blocks={BLOCKS}", TWIN, "configs/spiral.py"], None)
    assert [name for name, _ in found] == ["blocks", "vit_digits end_to_end", "spiral"]
    assert [file for _, (file, _) in found] == [BLOCKS, TWIN, "configs/spiral.py"]


@pytest.mark.parametrize("file", sorted(Path("configs/comparisons").glob("*.py")), ids=str)
def test_shipped_comparisons_name_configs_that_can_be_read(file):
    methods = compare_methods.named([], file)
    assert len(methods) >= 2
    configs = [load_config(path, own) for _, (path, own) in methods]
    assert len({config.data.name for config in configs}) == 1


@pytest.fixture
def refuse(monkeypatch, capsys):
    """Runs the program, expects a refusal before anything is trained, returns its sentence."""

    def run(*arguments):
        monkeypatch.setattr(train, "main", None)
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
        assert cli.program(compare.main) == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1
        return error

    return run


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], r"number of methods is 0; allowed: 1 or more"),
        ([f"--method=a={TWIN}", f"--method=A={BLOCKS}"], r"name of a method is 'a'; .*differ"),
        ([f"--method=-={TWIN}"], r"name of a method is '-'; .*letters"),
        (["--method=a=configs/nothing.py"], r"method 'a': config file .*nothing\.py does not"),
        ([f"--method=a={TWIN}", "--method=b=configs/dit_digits.py:blocks"],
         r"method 'b': family is 'dit'; allowed: a classifier: 'vit'"),
        ([f"--method=a={TWIN}", "--seeds=0"], r"--seeds is 0; allowed: 1 or more"),
        ([f"--method=a={TWIN}", "--seeds=2", "--config.seed=2147483647"], r"the last seed is"),
        ([f"--method=a={TWIN}", "--steps=0"], r"--steps is 0"),
        ([f"--method=a={TWIN}", "--num_noises=0"], r"--num_noises is 0"),
        ([f"--method=a={TWIN}", f"--method=b={BLOCKS}", "--config.classification.image_dropout=0"],
         r"method 'a': classification\.image_dropout is no key"),
        ([f"--method=a={BLOCKS}", "--config.placement.name=isolated"], r"placement\.name is 'iso"),
        (["--methods=nothing.py"], r"--methods is 'nothing\.py'"),
        (["--methods=configs/spiral.py"], r"spiral\.py fails with KeyError.*get_methods"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(refuse, tmp_path, given, sentence):
    folder = tmp_path / "runs"
    assert re.search(sentence, refuse(f"--workdir={folder}", *given))
    assert not folder.exists()


def test_different_data_do_not_compare():
    one, other = method("a", 1, 1), method("b", 1, 1)
    other.config.data.name = "mnist"
    with pytest.raises(SettingError, match=r"data\.name of the methods .*the same data for all"):
        compare_methods.check_alike([one, other])
    compare_methods.check_alike([one])


def row(name, accuracy, flops, size, seeds=3):
    accuracies = [accuracy + 0.01 * (i - 1) for i in range(seeds)]
    return Row(
        name, TWIN, "vit", 2, [5, 5], list(range(seeds)), accuracy, 0.01 if seeds > 1 else None,
        accuracies, 0.1, 0.01, flops, 1e6, 0.1, size,
    )  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_name_covers_another_or_leaves_its_panel(seeds):
    rows = [row(f"method number {i}", 0.9 + 0.01 * (i % 2), 10**12, 2**26, seeds) for i in range(7)]
    figure = comparison_figure(rows)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == len(rows)
        inside = axes.get_window_extent()
        for i, box in enumerate(boxes):
            assert inside.x0 <= box.x0 and box.x1 <= inside.x1
            assert not any(box.overlaps(other) for other in boxes[:i])
        assert len(axes.get_xticks()) >= 2


def test_the_text_table_is_aligned():
    lines = text_table([row("a", 0.5, 10**9, 2**20), row("much longer", 0.9, 5, 2**30)]).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert "50.0 ± 1.0%" in lines[1]


@pytest.mark.parametrize(
    ("value", "text"), [(5, "5 FLOP"), (2.5e9, "2.5 GFLOP"), (3e15, "3 PFLOP")]
)
def test_operations_in_words(value, text):
    assert show_flops(value) == text
