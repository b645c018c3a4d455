"""Sweeps: points and their names, bookkeeping over kills, failures and shards, table and figure."""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.sweeps import chain, product, sweep
from dbjax.workdir import write_whole
from experiments import cli, sweep_run
from experiments import sweep as program
from experiments.sweep_figure import Mark, sweep_figure
from experiments.sweep_points import make_trials, read_points
from experiments.sweep_run import hold, share_of

SPIRAL = "configs/spiral.py"
STUB = Path(__file__).with_name("sweep_stub.py")
BLOCKS = sweep("partition.num_blocks", (1, 2, 3))


def write(folder, points):
    file = folder / "points.py"
    file.write_text(f"def get_sweep():\n    return {points!r}\n")
    return file


def points_of(folder, points, *overrides):
    return read_points(write(folder, points), SPIRAL, overrides)


# --- points ---------------------------------------------------------------------------------------


def test_points_are_combined():
    a, b = sweep("a", (1, 2)), sweep("b", "xy")
    assert product(a, b) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip
    assert product(a) == a and product() == [{}]
    assert chain(a, b, a) == [*a, *b, *a]
    with pytest.raises(SettingError, match="a is in two parts of a product"):
        product(a, b, [{"a": 3}])


def test_names_are_made_of_what_varies(tmp_path):
    given = [
        {"partition.num_blocks": 3, "partition.layers": (1, 2, 3), "noise.p_mean": -1.2},
        {
            "partition.num_blocks": 3,
            "noise.p_mean": 1.2,
            "training.label_dropout": 0.30000000000001,
        },
        {"partition.num_blocks": 3, "name": "mine", "noise.p_mean": 0.0},
        {"partition.num_blocks": 3, "config": "configs/dit_digits.py:end_to_end"},
        {"partition.num_blocks": 3, "optimizer.clip_norm": None, "placement.prefetch": False},
    ]
    points = points_of(tmp_path, given)
    assert [point.name for point in points] == [
        "layers=1+2+3 p_mean=-1.2",
        "p_mean=1.2 label_dropout=0.30000000000001",
        "mine",
        "dit_digits end_to_end",
        "clip_norm=none prefetch=false",
    ]
    assert points[0].run == "layers_1_2_3_p_mean_minus_1_2"
    assert [tuple(point.config.partition.layers or ()) for point in points[:2]] == [(1, 2, 3), ()]
    assert points[3].config.family == "dit"


def test_names_tell_settings_of_one_name_apart(tmp_path):
    given = product(sweep("data.batch_size", (8, 16)), sweep("sampling.batch_size", (8, 16)))
    points = points_of(tmp_path, given)
    assert points[1].name == "data.batch_size=8 sampling.batch_size=16"


def test_points_that_are_trained_alike_share_a_run(tmp_path):
    steps = sweep("sampling.num_steps", (5, 10))
    given = chain(product(BLOCKS[:2], steps), BLOCKS[:1], [{"name": "ten", **steps[1]}], steps[:1])
    points = points_of(tmp_path, given)
    assert [point.run for point in points] == [
        "num_blocks_1", "num_blocks_1", "num_blocks_2", "num_blocks_2", "num_blocks_1", "spiral",
        "spiral",
    ]  # fmt: skip
    assert {point.training.sampling.num_steps for point in points} == {30}
    trials = make_trials(points, tmp_path, seeds=2)
    assert len({trial.out for trial in trials}) == len(trials) == 14
    assert len({trial.folder for trial in trials}) == 6
    plain = trials[4]
    assert plain.out == plain.folder == tmp_path / "runs" / "num_blocks_1" / "seed_0"


@pytest.fixture
def refuse(monkeypatch, capsys, tmp_path):
    """Runs the program, expects a refusal before anything is run, returns its sentence."""

    def run(points, *arguments, config=SPIRAL):
        monkeypatch.setattr(sweep_run, "command", None)
        workdir = f"--workdir={tmp_path / 'all'}"
        given = [f"--config={config}", f"--sweep={write(tmp_path, points)}", workdir, *arguments]
        monkeypatch.setattr(sys, "argv", ["sweep", *given])
        assert cli.program(program.main) == 2
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "all").exists()
        return error

    return run


@pytest.mark.parametrize(
    ("points", "arguments", "sentence"),
    [
        ([], [], r"number of points of .*points\.py is 0; allowed: 1 or more"),
        ([*BLOCKS, {"partition.blocks": 2}], [], r"point 'blocks=2': partition\.blocks is no key"),
        ([*BLOCKS, {"partition.num_blocks": 4}], [], r"point 'num_blocks=4': .*divisor of the 6"),
        ([*BLOCKS, {"partition.overlap": "far"}], [], r"point 'overlap=far': partition\.overlap"),
        ([*BLOCKS, {"config": "nothing.py"}], [], r"point 'nothing': config file nothing\.py"),
        ([{}, {"sampling.solver": "rk4"}], [], r"point 'solver=rk4': sampling\.solver is 'rk4'"),
        ([*BLOCKS, BLOCKS[0]], [], r"name of a point is 'num_blocks=1'; .*differ"),
        ([{"name": "a"}, {"name": "b"}], [], r"points 'a' and 'b' have the same settings"),
        ([{"name": "-"}], [], r"name of a point is '-'; .*letters"),
        ([{}, {"config": "configs/vit_digits.py"}], [], r"family of point 'vit_digits' is 'vit'"),
        ([{"name": "spiral", "training.steps": 5}, {"sampling.num_steps": 5}], [],
         r"points .* would be trained in one folder, spiral"),
        ([3], [], r"points\.py fails with TypeError.*list of {override: value}"),
        (BLOCKS, ["--config.partition.num_blocks=2"], r"num_blocks is '2'; allowed: left to the"),
        (BLOCKS, ["--seeds=0"], r"--seeds is 0; allowed: 1 or more"),
        (BLOCKS, ["--processes=0"], r"--processes is 0"),
        (BLOCKS, ["--num_noises=2"], r"--num_noises is 2; allowed: nothing for a model that draws"),
        (BLOCKS, ["--shard=0/2"], r"--shard is '0/2'; allowed: i/n"),
        (BLOCKS, ["--shard=3/2"], r"--shard is '3/2'"),
        (BLOCKS, ["--seeds=2", "--config.seed=2147483647"], r"point 'num_blocks=1': the last seed"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence_and_name_the_point(refuse, points, arguments, sentence):
    assert re.search(sentence, refuse(points, *arguments))


def test_a_folder_of_another_run_is_refused_before_any_is_run(tmp_path):
    points = points_of(tmp_path, BLOCKS)
    there = make_trials(points, tmp_path, 1)[2]
    there.folder.mkdir(parents=True)
    config = load_config(SPIRAL, {"partition.num_blocks": 3, "optimizer.b1": 0.5})
    write_whole(there.folder / "config.json", json.dumps(config.to_dict()))
    with pytest.raises(
        SettingError, match=r"point 'num_blocks=3': .*another config, optimizer\.b1"
    ):
        make_trials(points, tmp_path, 1)


@pytest.mark.parametrize("file", sorted(Path("configs/sweeps").glob("*.py")), ids=lambda f: f.stem)
def test_shipped_sweeps_can_be_made(file):
    configs = {
        "language_files": "ar_docs.py:plain",
        "language_gap": "ar_docs.py:plain",
        "language_twins": "mdm_docs.py",
        "passes": "ar_docs.py",
        "trade_off": "dit_drawn.py",
    }
    points = read_points(file, f"configs/{configs.get(file.stem, 'dit_digits.py')}", [])
    assert len(points) >= 4
    assert (len({p.run for p in points}) == 1) == (file.stem in ("guidance", "sampling", "solvers"))


# --- bookkeeping ----------------------------------------------------------------------------------


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Runs the program on points, with stand-ins for what it starts; returns its exit status."""
    monkeypatch.setattr(sweep_run, "command", lambda *given: [sys.executable, str(STUB), *given])

    def run(points, *arguments):
        given = arguments_of(tmp_path, points, *arguments)
        try:
            program.main(given)
        except SystemExit as end:
            return end.code
        return 0

    return run


def arguments_of(folder, points, *arguments):
    return [f"--config={SPIRAL}", f"--sweep={write(folder, points)}", f"--workdir={folder / 'all'}",
            "--config.training.steps=4", *arguments]  # fmt: skip


def rows_of(folder):
    return json.loads((folder / "all" / "sweep.json").read_text())["rows"]


def trained(folder):
    """Steps of each run, in the order in which they were made."""
    files = (folder / "all" / "runs").glob("*/seed_*/journal.txt")
    return {file.parent.relative_to(folder / "all" / "runs"): file.read_text() for file in files}


ALL_STEPS = "1\n2\n3\n4\n"


@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_what_it_starts_shares_compiled_programs(make, tmp_path, monkeypatch, own):
    monkeypatch.delenv(sweep_run.CACHE, raising=False)
    if own:
        monkeypatch.setenv(sweep_run.CACHE, own)
    assert make(BLOCKS[:2]) == 0
    evaluations = list((tmp_path / "all" / "runs").rglob("evaluation.json"))
    told = {json.loads(file.read_text())["compiled"] for file in evaluations}
    assert len(evaluations) == 2 and told == {own or str(tmp_path / "all" / "compiled")}


def test_what_only_sampling_knows_may_change_between_two_sweeps(make, tmp_path):
    for steps in (20, 30):
        assert make(BLOCKS[:1], f"--config.sampling.num_steps={steps}") == 0
        (row,) = rows_of(tmp_path)
        assert row["values"]["layer_evaluations_per_sample"]["mean"] == steps
    assert set(trained(tmp_path).values()) == {ALL_STEPS}


def test_means_over_seeds_and_the_costs_of_the_first(make, tmp_path):
    assert make(BLOCKS[:2], "--seeds=3") == 0
    one, two = rows_of(tmp_path)
    assert (one["name"], one["status"], one["n"]) == ("num_blocks=1", "done", 3)
    # By hand: 1, 2 and 3 have the mean 2 and the variance (1 + 0 + 1) / 2.
    found = one["values"]["frechet_distance"]
    assert found == {"mean": 2.0, "std": 1.0, "values": [1, 2, 3]}
    assert two["values"]["frechet_distance"]["mean"] == 3
    assert one["values"]["train_bytes.total"]["values"] == [2**20]
    assert [run["provenance"] for run in one["runs"]] == [{"commit": "abc"}] * 3
    folder = tmp_path / "all"
    markdown = (folder / "table.md").read_text().splitlines()
    assert markdown[0].startswith("| num_blocks | Fréchet distance ± std | layers per sample |")
    assert markdown[2].startswith("| 1 | 2.0 ± 1.0 | 30 | 1 MiB | 250 ms | 3 |")
    with (folder / "table.csv").open() as file:
        line = list(csv.DictReader(file))[1]
    assert (line["partition.num_blocks"], line["frechet_distance_std"]) == ("2", "1.0")
    html = (folder / "table.html").read_text()
    assert "2.0 ± 1.0" in html and html.count("<svg") == 1
    assert not re.search(r"<(script|link|img)|url\((?!#)", html)
    assert (folder / "figure.png").stat().st_size > 0
    assert "num blocks" in (folder / "figure.svg").read_text()


def test_what_is_there_is_left_alone_and_what_is_added_is_run(make, tmp_path, capsys):
    assert make(BLOCKS[:2]) == 0
    before = trained(tmp_path)
    assert make(BLOCKS, "--seeds=2") == 0
    after = trained(tmp_path)
    assert len(after) == 6 and set(after.values()) == {ALL_STEPS}
    assert before.items() <= after.items()
    assert "1 of 6: num_blocks=1, seed_0 is there" in capsys.readouterr().err
    evaluated = (tmp_path / "all").glob("runs/*/*/evaluated.txt")
    assert [len(file.read_text().splitlines()) for file in evaluated] == [1] * 6


def test_points_that_differ_in_sampling_are_trained_once(make, tmp_path):
    points = product(sweep("sampling.num_steps", (5, 10)), sweep("sampling.churn", (0.0, 1.0)))
    assert make(points) == 0
    assert trained(tmp_path) == {Path("spiral/seed_0"): ALL_STEPS}
    rows = rows_of(tmp_path)
    layers = [row["values"]["layer_evaluations_per_sample"]["mean"] for row in rows]
    assert layers == [5, 5, 10, 10]
    # What training costs was measured once and is told of all.
    assert [row["values"]["train_bytes.total"]["mean"] for row in rows] == [2**20] * 4
    out = [(tmp_path / "all" / row["runs"][0]["evaluation"]).parent for row in rows]
    asked = [folder / "evaluated.txt" for folder in out]
    assert ["--quality_only" in file.read_text() for file in asked] == [False, True, True, True]


def test_a_failure_is_one_point_and_is_tried_again(make, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STUB_FAILS", "num_blocks_2")
    assert make(BLOCKS) == 1
    failed = "failed: RESOURCE_EXHAUSTED: out of memory"
    assert [row["status"] for row in rows_of(tmp_path)] == ["done", failed, "done"]
    for name in ("table.md", "table.csv", "table.html"):
        assert failed in (tmp_path / "all" / name).read_text()
    assert "2 of 3 are done" in capsys.readouterr().out
    assert make(BLOCKS, "--table_only") == 0
    assert rows_of(tmp_path)[1]["status"] == failed
    monkeypatch.delenv("STUB_FAILS")
    assert make(BLOCKS) == 0
    assert [row["status"] for row in rows_of(tmp_path)] == ["done"] * 3
    assert set(trained(tmp_path).values()) == {ALL_STEPS}


def test_shards_are_all_points_and_the_table_says_what_is_missing(make, tmp_path):
    points = product(BLOCKS, sweep("sampling.num_steps", (5, 10)))
    trials = make_trials(points_of(tmp_path, points), tmp_path, 2)
    for count in (1, 2, 4, 9):
        shards = [share_of(trials, f"{i + 1}/{count}") for i in range(count)]
        assert sorted(t.log for shard in shards for t in shard) == sorted(t.log for t in trials)
        folders = [folder for shard in shards for folder in {t.folder for t in shard}]
        assert len(set(folders)) == len(folders)
    assert make(points, "--shard=2/2") == 0
    assert not (tmp_path / "all" / "sweep.json").exists()
    assert make(points, "--table_only") == 0
    status = [row["status"] for row in rows_of(tmp_path)]
    assert status == ["not run", "not run", "done", "done", "not run", "not run"]
    assert make(points, "--shard=1/2") == make(points, "--table_only") == 0
    assert [row["status"] for row in rows_of(tmp_path)] == ["done"] * 6
    assert set(trained(tmp_path).values()) == {ALL_STEPS}


def test_several_at_once(make, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("STUB_SECONDS", "0.05")
    assert make(BLOCKS, "--processes=2", "--seeds=2") == 0
    assert [row["n"] for row in rows_of(tmp_path)] == [2, 2, 2]
    assert set(trained(tmp_path).values()) == {ALL_STEPS}
    assert "6/6" in capfd.readouterr().err


def test_a_run_that_another_process_makes_is_waited_for(make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_run, "_WAIT", 0.01)
    folder = tmp_path / "all" / "runs" / "num_blocks_2" / "seed_0"
    held = hold(folder)
    assert held.__enter__() is not None
    with hold(folder) as again:
        assert again is None
    tell = sweep_run.Runner._tell

    def let_go_when_waited_for(self, text):
        tell(self, text)
        if text.startswith("waiting for 1 run"):
            held.__exit__(None, None, None)

    monkeypatch.setattr(sweep_run.Runner, "_tell", let_go_when_waited_for)
    assert make(BLOCKS) == 0
    told = re.findall(r"(\d of 3|waiting)", capsys.readouterr().err)
    assert told == ["1 of 3", "3 of 3", "waiting", "2 of 3"]


def test_what_a_sweep_has_started_keeps_its_run_for_it(tmp_path):
    with hold(tmp_path / "seed_0") as lock:
        child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=(lock,), stdin=-1)
    with hold(tmp_path / "seed_0") as again:
        assert again is None
    child.communicate(b"\n")
    with hold(tmp_path / "seed_0") as again:
        assert again is not None


LAUNCH = f"""
import sys
from experiments import cli, sweep, sweep_run
sweep_run.command = lambda *given: [sys.executable, {str(STUB)!r}, *given]
raise SystemExit(cli.program(sweep.main))
"""


def launch(folder, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *arguments_of(folder, BLOCKS)],
        env={**os.environ, "STUB_SECONDS": str(seconds)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(folder, steps):
    """Until so many steps have been made, of all runs together."""
    until = time.monotonic() + 100
    while sum(len(text.split()) for text in trained(folder).values()) < steps:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_killed_twice_it_trains_no_step_twice_and_ends_with_all_points(tmp_path):
    moments = random.Random(0)
    for steps in (2, 7):
        process = launch(tmp_path, seconds=0.3)
        wait_for(tmp_path, steps)
        time.sleep(moments.uniform(0, 0.5))
        process.kill()
        process.communicate()
    # What a killed one has started trains on, and is not started again beside it.
    process = launch(tmp_path, seconds=0.1)
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 0, told
    assert len(trained(tmp_path)) == 3
    assert set(trained(tmp_path).values()) == {ALL_STEPS}
    assert [row["status"] for row in rows_of(tmp_path)] == ["done"] * 3


def test_interrupted_it_stops_what_it_has_started_and_says_how_to_go_on(
    make, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("STUB_SECONDS", "0.5")

    def interrupt():
        wait_for(tmp_path, 3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        make(BLOCKS, "--processes=2")
    assert "stopped with 0 of 3 done; the same command continues" in capsys.readouterr().out
    there = trained(tmp_path)
    time.sleep(0.8)
    assert trained(tmp_path) == there
    assert [row["status"] for row in rows_of(tmp_path)] == ["not run"] * 3


# --- figure ---------------------------------------------------------------------------------------


def figure_of(*points):
    marks = [Mark(f"point {i}", *given, "done") for i, given in enumerate(points)]
    settings = {"a.x": "x", "a.y": "y"}
    figure = sweep_figure(marks, settings, "accuracy", str)
    figure.draw_without_rendering()
    return figure, figure.axes[0]


def legend_of(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_one_number_is_an_axis_and_a_second_setting_makes_lines():
    figure, axes = figure_of(*(({"a.x": x}, [x, x + 1]) for x in (0.0, 0.1, 0.4)))
    assert axes.get_xscale() == "linear" and list(axes.get_xticks()) == [0.0, 0.1, 0.4]
    (line,) = axes.lines[:1]
    assert line.get_ydata() == pytest.approx([0.5, 0.6, 0.9])
    assert legend_of(figure) == []
    both = [({"a.x": x, "a.y": y}, [x]) for y in ("s", "t") for x in (1, 10, 100)]
    figure, axes = figure_of(({"a.y": "u"}, [3.0, 4.0]), *both)
    assert axes.get_xscale() == "log"
    assert sorted(legend_of(figure)) == ["point 0", "y=s", "y=t"]


@pytest.mark.parametrize(
    "points",
    [
        [({"a.x": "s"}, [1.0]), ({"a.x": "t"}, [2.0, 3.0])],
        [({"a.x": True}, [1.0]), ({"a.x": False}, [2.0])],
        [({"a.x": 1}, []), ({"a.x": 2}, [])],
        [({}, [1.0])],
        [({"a.x": x, "a.y": f"{x}"}, [1.0]) for x in range(9)],
    ],
)
def test_else_each_point_has_a_line_with_its_name(points):
    _, axes = figure_of(*points)
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        f"point {i}" for i in range(len(points))
    ]
    boxes = [text.get_window_extent() for text in axes.get_yticklabels()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
