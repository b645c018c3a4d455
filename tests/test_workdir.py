"""Whose folder a run's is."""

import json

import pytest

from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.workdir import claim, read_config


def test_a_run_from_before_a_setting_existed_is_continued(tmp_path):
    layers = {"partition.layers": (3, 2, 1)}
    config = load_config("configs/ar_docs.py:paper", layers)
    file = claim(tmp_path / "run", config) / "config.json"
    old = json.loads(file.read_text())
    del old["model"]["start"], old["partition"]["context"], old["autoregressive"]
    file.write_text(json.dumps(old))
    assert read_config(tmp_path / "run").model.start == "noise"
    with pytest.raises(SettingError, match=r"model.start: 'noise' there, 'text' here"):
        claim(
            tmp_path / "run",
            load_config("configs/ar_docs.py:paper", {**layers, "model.start": "text"}),
        )
    assert json.loads(file.read_text()) == old
    claim(tmp_path / "run", config)
    assert json.loads(file.read_text())["model"]["start"] == "noise"


def test_what_is_no_run_of_a_known_family_is_left_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"family": "none", "model": {"width": 3}}))
    assert read_config(tmp_path).to_dict() == {"family": "none", "model": {"width": 3}}
