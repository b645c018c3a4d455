"""What the first cell of the notebooks does to a runtime, and what it never does."""

import subprocess
import sys
from importlib.metadata import version

import pytest

from notebooks import runtime

NEEDED = ["jax>=0.10", "flax>=0.12.7", "importlib_resources>=6.0"]
THERE = {"jax": "0.10.1", "jaxlib": "0.10.1", "jax-cuda13-pjrt": "0.10.1", "jaxtyping": "0.2.0"}


@pytest.fixture
def pip(monkeypatch):
    """Records calls in place of making them: arguments, and constraints."""
    calls = []

    def run(command, **_):
        constraints = command[command.index("--constraint") + 1]
        with open(constraints) as file:
            calls.append((command, file.read().split()))
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_where_all_is_there_nothing_is_installed(pip):
    runtime.prepare()
    assert pip == []
    assert f"jax     {version('jax')}\n" in runtime.versions()


def test_packages_that_are_missing_or_too_old_are_named_however_they_are_spelled():
    assert runtime.unmet(NEEDED, {**THERE, "flax": "0.12.6"}) == ["flax", "importlib_resources"]
    assert runtime.unmet(NEEDED, {**THERE, "flax": "0.13", "importlib-resources": "6.1"}) == []


def test_jax_and_all_that_must_fit_it_are_held(pip, monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "installed", lambda: THERE)
    runtime.prepare()
    ((command, constraints),) = pip
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-2:] == ["--editable", str(runtime.CHECKOUT)]
    assert constraints == ["jax==0.10.1", "jaxlib==0.10.1", "jax-cuda13-pjrt==0.10.1"]


def test_too_old_a_jax_is_left_as_it_is(pip, monkeypatch):
    monkeypatch.setattr(runtime, "installed", lambda: {"jax": "0.7.2"})
    with pytest.raises(RuntimeError, match=r"needs jax>=0.10 and this runtime has jax 0.7.2.*left"):
        runtime.prepare()
    assert pip == []


def test_too_old_a_python_is_refused():
    with pytest.raises(RuntimeError, match=r"needs Python >=3.11 and this is 3.10.13"):
        runtime.check_python(">=3.11", "3.10.13")


def test_a_changed_jax_and_loaded_modules_of_old_packages_end_it():
    with pytest.raises(RuntimeError, match="has changed jaxlib; start a new runtime"):
        runtime.check_unchanged(THERE, {**THERE, "jaxlib": "0.12"}, {})
    before, owners = {"numpy": "2.0", "six": "1"}, {"numpy": ["NumPy"], "absent": ["six"]}
    with pytest.raises(RuntimeError, match=r"^numpy had been loaded"):
        runtime.check_unchanged(before, {"numpy": "2.4", "six": "2"}, owners)
    runtime.check_unchanged(before, {"numpy": "2.0", "six": "2"}, owners)
