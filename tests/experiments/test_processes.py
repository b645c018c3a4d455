"""What processes on one machine are given of it."""

import os
import subprocess
import sys

import pytest

from experiments import processes
from experiments.processes import Share, device_variables, shares


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "1"]),
        ("", ["0", "1"]),
        ("3,5", ["3", "5"]),
        ("GPU-7b1e, GPU-02ac", ["GPU-7b1e", "GPU-02ac"]),
    ],
)
def test_every_process_sees_one_device_of_those_that_may_be_used(visible, expected):
    for backend, name in (("gpu", "CUDA_VISIBLE_DEVICES"), ("tpu", "TPU_VISIBLE_CHIPS")):
        environment = {} if visible is None else {name: visible}
        found = [device_variables(backend, device, environment) for device in range(2)]
        assert [variables[name] for variables in found] == expected


def test_a_process_of_its_own_on_one_tpu_chip():
    assert device_variables("tpu", 2, {}) == {
        "TPU_VISIBLE_CHIPS": "2",
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
    }


def test_cores_are_divided_among_as_many_processes(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 4, 5, 7}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", None, raising=False)
    assert [one.cores for one in shares("cpu", 2)] == [{1, 2, 4}, {5, 7}]
    # One alone has them all, and so have more than there are cores.
    assert shares("cpu", 1) == [Share()]
    assert shares("cpu", 6) == [Share()] * 6
    assert [one.cores for one in shares("gpu", 2)] == [frozenset()] * 2


def test_without_affinity_processes_share_all_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert shares("cpu", 2) == [Share()] * 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_a_process_runs_on_its_cores_and_sees_its_variables():
    core = min(os.sched_getaffinity(0))
    share = Share({"MINE": "1"}, frozenset({core}))
    # Asked once the parent has spoken, which it does after giving out the cores.
    code = "import os, sys; sys.stdin.read(); print(os.environ['MINE'], os.environ['MORE'], "
    code += "*os.sched_getaffinity(0))"
    process = share.start(
        [sys.executable, "-c", code],
        more={"MINE": "0", "MORE": "2"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.communicate(b"")[0].split() == [b"1", b"2", str(core).encode()]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be chosen here")
def test_one_that_has_ended_already_is_no_error(monkeypatch):
    class Ended(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.wait()

    monkeypatch.setattr(processes.subprocess, "Popen", Ended)
    share = Share(cores=frozenset(os.sched_getaffinity(0)))
    assert share.start([sys.executable, "-c", ""]).returncode == 0
