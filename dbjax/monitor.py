"""What is seen of a run while it trains: a progress bar, `metrics.jsonl` and TensorBoard."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
from tensorboardX import SummaryWriter
from tqdm.auto import tqdm

from dbjax.training import Chunk


class Diverged(RuntimeError):
    """A loss is no longer finite."""


class Journal:
    """Scalars of one block on disk, in a folder that nobody else writes to.

    workdir/metrics/block_00/metrics.jsonl (one JSON object a line) and TensorBoard's event files.
    """

    def __init__(self, workdir: Path, block: int, step: int) -> None:
        """Opens the journal, dropping rows past `step`, which training resumes from."""
        self._block = block
        folder = workdir / "metrics" / f"block_{block:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        kept = [row for row in _rows(path) if row["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, path)
        self._file = path.open("a")
        self._events = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        row = {"block": self._block, "step": step, "time": round(time.time(), 3), **scalars}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_journal(workdir: Path) -> list[dict[str, Any]]:
    """The rows of all blocks, block by block."""
    paths = sorted((workdir / "metrics").glob("block_*/metrics.jsonl"))
    return [row for path in paths for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of one file; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


class Monitor:
    """Watches chunks of training: averages their metrics, shows and records them.

    A chunk is read only when the next one arrives, so that looking never makes the device wait.
    """

    def __init__(
        self,
        steps: Mapping[int, int],
        target: int,
        *,
        batch_size: int,
        log_every: int,
        journals: Mapping[int, Journal] | None = None,
        title: str = "train",
        unit: str = "images",
        show: bool = True,
    ) -> None:
        """Begins watching.

        Args:
            steps: each block's steps so far.
            target: steps of each block at the end.
            batch_size: examples in a step.
            log_every: steps of a block between its rows in the journal.
            journals: where rows of a block go, for the blocks that have one.
            title: first word of the progress bar.
            unit: what examples are, in the plural.
            show: whether to draw one.
        """
        self._steps = dict(steps)
        self._batch_size = batch_size
        self._unit = unit
        self._log_every = log_every
        self._journals = journals or {}
        self._pending: Chunk | None = None
        self._window: dict[int, list[dict[str, np.ndarray]]] = {b: [] for b in steps}
        self._losses: dict[int, float] = {}
        # (time, examples so far) of the latest chunks: speed is what lies between first and last.
        self._progress: deque[tuple[float, int]] = deque(maxlen=20)
        # In notebooks the bar is a widget, which finds its own width.
        in_notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
        bar = "{bar}" if in_notebook else "{bar:20}"
        self._bar = tqdm(
            desc=title,
            total=target * len(steps),
            initial=sum(steps.values()),
            unit="step",
            disable=not show,
            smoothing=0.1,
            dynamic_ncols=True,
            bar_format=f"{{desc}} {{percentage:3.0f}}%|{bar}| {{n_fmt}}/{{total_fmt}} block steps "
            "[{elapsed}<{remaining}{postfix}]",
        )

    def __call__(self, chunk: Chunk) -> None:
        self.flush()
        self._pending = chunk

    def flush(self) -> None:
        """Reads what is pending.

        Raises:
            Diverged: if a loss in it is not finite.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._read(pending)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()

    def _read(self, chunk: Chunk) -> None:
        metrics = jax.device_get(chunk.metrics)
        before = self._progress[-1][1] if self._progress else 0
        examples = chunk.num_steps * len(metrics) * self._batch_size
        self._progress.append((time.perf_counter(), before + examples))
        for block, values in metrics.items():
            self._record(block, chunk.num_steps, values)
        losses = " ".join(f"{self._losses[b]:.3f}" for b in sorted(self._losses))
        speed = "" if self._rate is None else f" · {_short(self._rate)} {self._unit}/s"
        self._bar.set_postfix_str(
            f"step {min(self._steps.values())} · loss {losses}{speed} · {_memory()}", refresh=False
        )
        self._bar.update(chunk.num_steps * len(metrics))

    @property
    def _rate(self) -> float | None:
        """Examples per second lately; None before there are two chunks to compare."""
        (first, before), (last, after) = self._progress[0], self._progress[-1]
        return (after - before) / (last - first) if last > first else None

    def _record(self, block: int, num_steps: int, values: dict[str, np.ndarray]) -> None:
        before = self._steps[block]
        after = self._steps[block] = before + num_steps
        self._window[block].append(values)
        loss = float(np.mean(values["loss"]))
        if not math.isfinite(loss):
            self._bar.close()
            raise Diverged(
                f"the loss of block {block} is {loss} after step {before}; training stopped and "
                "what was saved before is untouched (a smaller optimizer.learning_rate, a longer "
                "optimizer.warmup_steps or optimizer.clip_norm may help)"
            )
        self._losses[block] = loss
        if after // self._log_every > before // self._log_every:
            rows, self._window[block] = self._window[block], []
            means = {
                name: float(np.mean(np.concatenate([row[name] for row in rows])))
                for name in rows[0]
            }
            if block in self._journals:
                speed = {} if self._rate is None else {"examples_per_second": self._rate}
                self._journals[block].write(after, means | speed)


def _memory() -> str:
    """Peak device memory where the device reports it, else memory of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return f"{stats['peak_bytes_in_use'] / 2**30:.2f} GiB peak"
    return f"{psutil.Process().memory_info().rss / 2**30:.2f} GiB"


def _short(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"
