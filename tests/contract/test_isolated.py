"""Blocks trained each alone, in any order and any folder, are the blocks of one run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dbjax import session
from dbjax.data import DataConfig, in_memory_dataset
from dbjax.errors import SettingError
from dbjax.placement import PlacementConfig
from dbjax.session import Model
from tests.helpers import distance, same, toy_trainer

STEPS = 20
TRAINER = toy_trainer()
POINTS = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


def run(name: str, workdir: Path | None, blocks: list[int] | None, **settings: str) -> Model:
    dataset = in_memory_dataset(
        "points",
        POINTS,
        np.zeros(len(POINTS), np.int32),
        num_classes=0,
        mean=0.0,
        std=1.0,
        max_value=None,
    )
    return session.run(
        TRAINER,
        dataset,
        DataConfig(batch_size=4),
        PlacementConfig(name, steps_per_dispatch=5, **settings),
        steps=STEPS,
        blocks=blocks,
        workdir=workdir,
        show=False,
    )


@pytest.fixture(scope="module")
def together() -> Model:
    """All blocks in one process."""
    return run("sequential", None, None)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("folders", ["one", "several"])
def test_alone_a_block_learns_what_it_learns_among_others(
    tmp_path: Path, together: Model, folders: str, order: tuple[int, ...]
) -> None:
    for b in order:
        workdir = tmp_path if folders == "one" else tmp_path / str(b)
        alone = run("isolated", workdir, [b])
        assert alone.steps == {b: STEPS}
        assert same(alone.blocks[b], together.blocks[b])
        assert distance(alone.blocks[b], TRAINER.init(b).weights) > 0.01
    if folders == "one":
        assert same(session.load(TRAINER, tmp_path).blocks, together.blocks)


def test_several_blocks_in_one_process_are_no_different(together: Model) -> None:
    some = run("isolated", None, [0, 2])
    assert set(some.blocks) == {0, 2}
    assert all(same(some.blocks[b], together.blocks[b]) for b in some.blocks)


@pytest.mark.parametrize("name", ["sequential", "stacked"])
def test_some_blocks_cannot_share_an_interface(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError) as error:
        run(name, tmp_path, [1], interface="shared")
    assert str(error.value) == (
        "placement.interface is 'shared' and only blocks 1 are trained; allowed: all blocks "
        "together, or an interface that is 'owned' or 'frozen'"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "checkpoints" / "block_01.lock"
    lock.parent.mkdir()
    code = (
        "import filelock, sys\nwith filelock.FileLock(sys.argv[1]):\n print(flush=True)\n input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(SettingError) as error:
            run("isolated", tmp_path, [1])
        run("isolated", tmp_path, [2])
        other.kill()
    assert str(error.value) == (
        f"block 1 of {tmp_path} is being trained by another process; allowed: other blocks, or "
        "waiting for it"
    )
    # The lock ends with the process, however it ends.
    assert run("isolated", tmp_path, [1]).steps == {1: STEPS}
