"""Joining blocks that were trained apart into one run folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from dbjax.checkpoint import Checkpoints
from dbjax.errors import SettingError
from dbjax.partition import parse_blocks
from dbjax.transfer import columns, copy_metrics, latest_steps, listed
from dbjax.workdir import check_empty, claim, read_config, run_differences


@dataclasses.dataclass(frozen=True)
class Source:
    """Blocks of one run.

    Attributes:
        workdir: the run's folder.
        config: its config.
        steps: of each block that is taken, the checkpoint.
        fingerprints: of each of them, that of the data it was trained on.
    """

    workdir: Path
    config: ConfigDict
    steps: Mapping[int, int]
    fingerprints: Mapping[int, str]


def read_source(text: str) -> Source:
    """The source that `DIR` (all blocks that are there) or `DIR:0,2` names.

    Raises:
        SettingError: if there is no such run or block.
    """
    folder, colon, numbers = text.rpartition(":")
    if not colon or Path(text).is_dir():
        folder, numbers = text, ""
    workdir = Path(folder)
    config = read_config(workdir)
    steps = latest_steps(workdir, config)
    if numbers:
        blocks = parse_blocks(numbers, config.partition.num_blocks, f"the part of --from {text}")
        missing = [b for b in blocks if b not in steps]
        if missing:
            raise SettingError(
                f"{workdir} has no checkpoint of block {listed(missing)}; allowed: "
                f"{listed(steps) or 'none, for it has no checkpoint at all'}"
            )
        steps = {b: steps[b] for b in blocks}
    with Checkpoints(workdir / "checkpoints") as there:
        fingerprints = {b: there.data(b, step)["fingerprint"] for b, step in steps.items()}
    return Source(workdir, config, steps, fingerprints)


def assemble(sources: Sequence[Source], out: Path, *, partial: bool = False) -> str:
    """Joins the latest checkpoints, and the metrics, of blocks into one run folder.

    Its config is that of the first source, with the largest `training.steps` of all.

    Args:
        sources: one or more.
        out: a new or empty folder.
        partial: whether blocks may be missing.

    Returns:
        A table of each block's source and step.

    Raises:
        SettingError: if they are not blocks of one model. Nothing is written then.
    """
    for other in sources[1:]:
        _check_same_run(sources[0], other)
    owners = _owners(sources)
    num_blocks = sources[0].config.partition.num_blocks
    missing = [b for b in range(num_blocks) if b not in owners]
    if missing and not partial:
        raise SettingError(
            f"block {listed(missing)} is in none of the runs; allowed: all {num_blocks} blocks, or "
            "--partial"
        )
    shared = sources[0].config.placement.interface == "shared"
    if shared and (missing or len(sources) > 1):
        raise SettingError(
            "placement.interface is 'shared', and only blocks that were trained together share one;"
            " allowed: all blocks of one run"
        )
    check_empty(out)
    config = sources[0].config.copy_and_resolve_references()
    config.training.steps = max(source.config.training.steps for source in sources)
    workdir = claim(out, config)
    with Checkpoints(workdir / "checkpoints") as here:
        for source in sources:
            copy_metrics(source.workdir, workdir, source.steps)
            with Checkpoints(source.workdir / "checkpoints") as there:
                there.copy(source.steps, here, together=shared)
    rows = [(str(b), str(owner.workdir), str(owner.steps[b])) for b, owner in owners.items()]
    table = columns([("block", "from", "step"), *sorted(rows)])
    if len({step for _, _, step in rows}) > 1:
        table += "\nThe blocks are at different steps; each goes on from its own."
    return table


def _check_same_run(first: Source, other: Source) -> None:
    """Refuses blocks that are not of one model."""
    if first.config.seed != other.config.seed:
        raise SettingError(
            f"seed is {first.config.seed} in {first.workdir} and {other.config.seed} in "
            f"{other.workdir}; allowed: one seed, since interface and layers are drawn from it"
        )
    differences = run_differences(first.config, other.config)
    if differences:
        raise SettingError(
            f"{first.workdir} (there) and {other.workdir} (here) are of different configs, "
            f"{'; '.join(differences[:3])}; allowed: blocks of one config"
        )


def _owners(sources: Sequence[Source]) -> dict[int, Source]:
    """The one source of each block."""
    owners: dict[int, Source] = {}
    for source in sources:
        for b in source.steps:
            if b in owners:
                raise SettingError(
                    f"block {b} is in {owners[b].workdir} and in {source.workdir}; allowed: one of "
                    f"them, by naming the blocks to take from each, as {source.workdir}:{b}"
                )
            owners[b] = source
    prints = {b: source.fingerprints[b] for b, source in owners.items()}
    if len(set(prints.values())) > 1:
        found = ", ".join(f"{prints[b]} for block {b}" for b in sorted(prints))
        raise SettingError(
            f"the blocks were trained on different data (fingerprint {found}); allowed: blocks "
            "that were trained on the same data"
        )
    return owners
