"""What is seen of a run: rows on disk, TensorBoard, the progress bar, divergence."""

import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dbjax.monitor import Diverged, Journal, Monitor, read_journal
from dbjax.training import Chunk


def chunk(losses: dict[int, list[float]]) -> Chunk:
    num_steps = len(next(iter(losses.values())))
    return Chunk(num_steps, {block: {"loss": jnp.array(loss)} for block, loss in losses.items()})


def watch(workdir, steps, chunks, *, show=False):
    journals = {block: Journal(workdir, block, step) for block, step in steps.items()}
    monitor = Monitor(
        steps, 8, batch_size=2, log_every=4, journals=journals, unit="sequences", show=show
    )
    try:
        for part in chunks:
            monitor(part)
        monitor.flush()
    finally:
        monitor.close()
        for journal in journals.values():
            journal.close()


def test_rows_hold_the_mean_since_the_last_one(tmp_path):
    watch(tmp_path, {0: 0, 1: 0}, [chunk({0: [1.0, 2.0]}), chunk({0: [3.0, 6.0], 1: [4.0, 4.0]})])
    rows = read_journal(tmp_path)
    assert [(row["block"], row["step"], row["loss"]) for row in rows] == [(0, 4, 3.0)]


def test_tensorboard_shows_the_same(tmp_path):
    watch(tmp_path, {0: 0, 1: 0}, [chunk({0: [1.0, 2.0, 3.0, 6.0], 1: [5.0, 5.0, 5.0, 5.0]})])
    for block, loss in ((0, 3.0), (1, 5.0)):
        folder = tmp_path / "metrics" / f"block_{block:02d}"
        (scalar,) = EventAccumulator(str(folder)).Reload().Scalars("loss")
        assert (scalar.step, scalar.value) == (4, loss)


def test_rows_of_an_abandoned_future_are_dropped(tmp_path):
    watch(tmp_path, {0: 0}, [chunk({0: [1.0] * 4}), chunk({0: [2.0] * 4})])
    with (tmp_path / "metrics" / "block_00" / "metrics.jsonl").open("a") as file:
        file.write('{"block": 0, "st')  # cut short by a kill
    watch(tmp_path, {0: 4}, [chunk({0: [3.0] * 4})])
    rows = read_journal(tmp_path)
    assert [(row["step"], row["loss"]) for row in rows] == [(4, 1.0), (8, 3.0)]


def test_divergence_is_one_sentence_with_the_block(tmp_path):
    with pytest.raises(Diverged, match=r"block 1 is nan after step 0.*learning_rate"):
        watch(tmp_path, {0: 0, 1: 0}, [chunk({0: [1.0], 1: [float("nan")]})])


def test_the_bar_tells_steps_losses_and_memory(tmp_path, capsys):
    watch(tmp_path, {0: 0, 1: 0}, [chunk({0: [0.5] * 4, 1: [0.25] * 4})] * 2, show=True)
    last = capsys.readouterr().err.split("\r")[-1]
    for part in ("16/16 block steps", "step 8", "loss 0.500 0.250", "sequences/s", "GiB"):
        assert part in last
