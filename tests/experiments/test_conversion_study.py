"""The whole study in a few steps: four runs of a seed, one file of figures."""

import json

import pytest

from dbjax.workdir import read_config
from experiments import conversion_study
from tests.experiments.test_convert import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compilation")]


def test_it_runs_and_then_leaves_alone_what_is_there(tmp_path, capsys):
    arguments = [f"--workdir={tmp_path}", "--seeds=1", *SMALL, "--config.model.depth=3"]
    conversion_study.main(arguments)
    document = json.loads((tmp_path / "conversion.json").read_text())
    assert [row["name"] for row in document["rows"]] == list(conversion_study.RUNS)
    for row in document["rows"]:
        (accuracy,) = row["accuracy"]["values"]
        assert row["steps"] == 2 and accuracy == row["accuracy"]["mean"] and 0 <= accuracy <= 1
    families = [read_config(tmp_path / "seed_0" / name).family for name in conversion_study.RUNS]
    assert families == ["plain_vit", "plain_vit", "vit", "vit"]
    # What was trained further is not what was drawn: the two have one config.
    blocks, drawn = (document["rows"][i]["negative_log_likelihood"]["mean"] for i in (2, 3))
    assert blocks != drawn
    capsys.readouterr()
    conversion_study.main(arguments)
    assert "by_blocks" in capsys.readouterr().out
    assert json.loads((tmp_path / "conversion.json").read_text())["rows"] == document["rows"]
