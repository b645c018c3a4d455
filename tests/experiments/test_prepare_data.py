import sys

import numpy as np
import pytest

from dbjax.data import DataConfig, load_dataset
from experiments import cli, prepare_data
from tests.data import archives


def test_it_prints_what_is_there_now(tmp_path, capsys):
    data = archives.random_set("mnist", np.random.default_rng(0))
    files = [str(path) for path in archives.write_idx(tmp_path, data, ".gz")]
    prepare_data.main(["mnist", *files, f"--data_dir={tmp_path}", "--partial"])
    lines = capsys.readouterr().out.splitlines()
    counts = np.bincount(data["train"][1], minlength=10)
    expected = ["train", "20", "28x28x1", "10", str(counts.min()), str(counts.max())]
    assert expected in [line.split() for line in lines]
    assert lines[-1] == f"written to {tmp_path / 'mnist' / '3.0.1'}"
    assert load_dataset(DataConfig(name="mnist", data_dir=str(tmp_path))).info.size == 20


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("mnist", "the train split of MNIST has 20 images"), ("mnits", "the data set is 'mnits'")],
)
def test_a_refusal_is_one_sentence_and_status_2(name, sentence, tmp_path, capsys, monkeypatch):
    data = archives.random_set("mnist", np.random.default_rng(0))
    files = [str(path) for path in archives.write_idx(tmp_path, data)]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["prepare_data", name, *files, f"--data_dir={out}"])
    assert cli.program(prepare_data.main) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence}")
    assert error.count("\n") == 1
    assert not out.exists()
