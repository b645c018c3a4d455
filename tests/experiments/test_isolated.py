"""The launcher's decisions; no process is started."""

import pytest
from filelock import FileLock

from dbjax.config import config_to_json, load_config
from dbjax.errors import SettingError
from experiments import isolated, processes, train
from experiments.isolated import MAX_RESTARTS, Restarts, share_out

SPIRAL = "--config=configs/spiral.py"


@pytest.mark.parametrize(
    ("limits", "groups"),
    [
        ((None, None), [(0,), (1,), (2,), (3,), (4,)]),
        ((8, None), [(0,), (1,), (2,), (3,), (4,)]),
        ((2, None), [(0, 1, 2), (3, 4)]),
        ((4, 3), [(0, 1), (2, 3), (4,)]),
        ((None, 1), [(0, 1, 2, 3, 4)]),
    ],
)
def test_every_block_has_one_process(limits, groups):
    assert share_out(5, *limits) == groups


def test_gives_up_after_five_restarts_without_a_checkpoint():
    restarts = Restarts()
    assert [restarts.allow({1: 0}) for _ in range(MAX_RESTARTS)] == [True] * 5
    assert not restarts.allow({1: 0})
    assert restarts.total == 5


def test_a_new_checkpoint_of_any_of_its_blocks_starts_the_count_anew():
    restarts = Restarts()
    for saved in ({0: 0, 1: 0}, {0: 50, 1: 0}, {0: 50, 1: 50}):
        assert [restarts.allow(saved) for _ in range(MAX_RESTARTS)] == [True] * 5
    assert not restarts.allow({0: 50, 1: 50})
    assert restarts.total == 15


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--processes=0"], "--processes is 0; allowed: 1 or more"),
        (["--config.partition.num_blocks=4"], "partition.num_blocks is 4; allowed: a divisor"),
        (["--config.placement.interface=shared"], "placement.interface is 'shared'; allowed: "),
        (
            ["--processes=2", "--blocks=1"],
            "--processes is 2; allowed: none, or placement.name 'isolated' without --blocks",
        ),
    ],
)
def test_bad_settings_are_refused_before_any_process_is_started(
    tmp_path, monkeypatch, arguments, sentence
):
    monkeypatch.setattr(processes.subprocess, "Popen", None)
    isolating = [SPIRAL, "--config.placement.name=isolated", f"--workdir={tmp_path / 'run'}"]
    with pytest.raises(SettingError) as error:
        train.main([*isolating, *arguments])
    assert str(error.value).startswith(sentence)
    assert not (tmp_path / "run").exists()


def test_blocks_that_a_killed_launcher_left_training_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(isolated, "find_devices", lambda: ("cpu", 1))
    monkeypatch.setattr(processes.subprocess, "Popen", None)
    lock = tmp_path / "checkpoints" / "block_01.lock"
    lock.parent.mkdir()
    (tmp_path / "config.json").write_text(config_to_json(load_config("configs/spiral.py")))
    with FileLock(lock), pytest.raises(SettingError) as error:
        train.main([f"--workdir={tmp_path}", "--config.placement.name=isolated"])
    assert str(error.value) == (
        f"block 1 of {tmp_path} is being trained by another process; allowed: other blocks, or "
        "waiting for it"
    )
