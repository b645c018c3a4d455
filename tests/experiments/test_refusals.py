"""Bad input: one sentence, exit status 2, no traceback, nothing overwritten."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.workdir import claim
from experiments import cli, evaluate, sample, train

DIGITS = "--config=configs/dit_digits.py"
SPIRAL = "--config=configs/spiral.py"
BRIEF = [
    SPIRAL,
    "--config.training.steps=2",
    "--config.data.batch_size=8",
    "--config.model.depth=3",
    "--config.model.width=8",
    "--config.placement.name=sequential",
]


@pytest.fixture
def refuse(monkeypatch, capsys):
    """Runs a program, expects a refusal, returns its sentence."""

    def run(program, *arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        assert cli.program(program.main) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        lines = error.strip().splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("--config.model.widht=96", r"model\.widht .*width"),
        ("--config.modle.width=96", r"modle.*model"),
        ("--config.partition.num_blocks=4", r"partition\.num_blocks is 4; .*divisor.*6 layers"),
        ("--config.partition.num_blocks=7", r"partition\.num_blocks is 7; .*at most.*6"),
        ("--config.partition.num_blocks=0", r"partition\.num_blocks is 0"),
        ("--config.partition.num_blocks=three", r"partition\.num_blocks is 'three'"),
        ("--config.partition.layers=(1,2,4)", r"partition\.layers is \(1, 2, 4\).*6 layers"),
        ("--config.partition.overlap=-0.1", r"partition\.overlap is -0\.1; allowed: 0 or more"),
        ("--config.noise.sigma_min=80", r"noise\.sigma_max is 80\.0; .*noise\.sigma_min"),
        ("--config.noise.sigma_min=-1", r"noise\.sigma_min is -1\.0"),
        ("--config.data.name=nothing", r"data\.name is 'nothing'; allowed: .*digits"),
        ("--config.family=unet", r"family is 'unet'; allowed: .*dit"),
        ("--config.seed=-1", r"seed is -1"),
        ("--config.placement.name=nowhere", r"placement\.name is 'nowhere'"),
        ("--config.sampling.solver=rk9", r"sampling\.solver is 'rk9'.*euler"),
        ("--config.optimizer.schedule=up", r"optimizer\.schedule is 'up'"),
        ("--config.model.patch_size=3", r"patch_size.* 3"),
        ("--confg.model.width=3", r"--confg\.model\.width=3"),
    ],
)
def test_impossible_settings_are_refused_before_the_workdir_is_made(
    refuse, tmp_path, override, sentence
):
    workdir = tmp_path / "run"
    assert re.search(sentence, refuse(train, DIGITS, f"--workdir={workdir}", override))
    assert not workdir.exists()


def test_a_missing_data_set_is_refused_with_the_way_to_get_it(refuse, tmp_path):
    workdir = tmp_path / "run"
    error = refuse(
        train,
        "--config=configs/dit_cifar10.py",
        f"--workdir={workdir}",
        f"--config.data.data_dir={tmp_path}",
    )
    assert "cifar10" in error
    assert str(tmp_path) in error
    assert "experiments.prepare_data" in error
    assert not workdir.exists()


def test_a_missing_config_is_refused_with_those_that_are_there(refuse, tmp_path):
    error = refuse(train, "--config=configs/dit_digit.py", f"--workdir={tmp_path / 'run'}")
    assert "dit_digits.py" in error


def test_a_workdir_that_cannot_be_written_is_refused(refuse, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert "is a file" in refuse(train, SPIRAL, f"--workdir={file}")
    assert "cannot be written" in refuse(train, SPIRAL, f"--workdir={file / 'run'}")
    assert file.read_text() == "mine"


def test_a_foreign_workdir_is_refused_and_left_alone(refuse, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    error = refuse(train, SPIRAL, f"--workdir={tmp_path}")
    assert "thesis.tex" in error
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_of_another_config_is_refused_and_left_alone(refuse, tmp_path):
    train.main([*BRIEF, f"--workdir={tmp_path}"])
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    error = refuse(train, *BRIEF, f"--workdir={tmp_path}", "--config.model.width=32")
    assert "model.width: 8 there, 32 here" in error
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert json.loads((tmp_path / "config.json").read_text())["model"]["width"] == 8


def test_a_tokenizer_may_move_and_not_change_its_kind(tmp_path):
    def config(tokenizer):
        overrides = {"data.name": "files", "data.tokenizer": tokenizer}
        return load_config("configs/mdm_docs.py", overrides)

    workdir = claim(tmp_path / "run", config("here/tokenizer.json"))
    claim(workdir, config("there/tokenizer.json"))
    with pytest.raises(SettingError, match=r"data\.tokenizer: 'there/.*' there, 'bytes' here"):
        claim(workdir, config("bytes"))


@pytest.mark.parametrize("program", [sample, evaluate])
def test_a_workdir_without_a_run_is_refused(refuse, tmp_path, program):
    assert "holds no run" in refuse(program, f"--workdir={tmp_path / 'nothing'}")


def test_a_run_without_checkpoints_is_refused(refuse, tmp_path):
    train.main([*BRIEF, f"--workdir={tmp_path}"])
    for path in (tmp_path / "checkpoints" / "block_01").iterdir():
        path.rename(tmp_path / "gone")
    assert "no checkpoint of block 1" in refuse(sample, f"--workdir={tmp_path}")


def test_a_label_that_does_not_exist_is_refused(refuse, tmp_path):
    train.main([*BRIEF, f"--workdir={tmp_path}"])
    assert re.search(
        r"--label is 3; allowed: classes 0 to 2",
        refuse(sample, f"--workdir={tmp_path}", "--label=3"),
    )


def test_the_real_process_exits_with_2_and_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", DIGITS, "--workdir=/dev/null/x"],
        capture_output=True, text=True, cwd=Path(__file__).parents[2], env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
