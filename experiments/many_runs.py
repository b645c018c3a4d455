"""What programs that make many runs share: names of folders, seeds, whether a run is at its end."""

import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from dbjax.checkpoint import Checkpoints
from dbjax.errors import require
from dbjax.workdir import read_config


def slug(name: str) -> str:
    """A name as that of a folder; -1 and 1 stay apart."""
    signed = re.sub(r"(?<![a-z0-9])-(?=[\d.])", "minus ", name.lower())
    return re.sub(r"[^a-z0-9]+", "_", signed).strip("_")


def check_names(names: Sequence[str], what: str) -> None:
    """Refuses names that would not make different folders.

    Args:
        names: of all.
        what: they are names of, for the refusal.

    Raises:
        SettingError: if one has neither letters nor digits, or two differ in other signs only.
    """
    slugs = [slug(name) for name in names]
    for one, name in zip(slugs, names, strict=True):
        require(bool(one), f"name of {what}", name, "one with letters or digits")
        require(slugs.count(one) == 1, f"name of {what}", name, "names that differ in letters")


def check_seeds(config: ConfigDict, count: int) -> None:
    """Refuses more seeds than there are, counted from the config's.

    Raises:
        SettingError: if there are not so many.
    """
    last = config.seed + count - 1
    require(last < 2**31, "the last seed", last, "a whole number from 0 to 2^31 - 1")


def seeded(config: ConfigDict, number: int) -> ConfigDict:
    """A copy with the `number`-th seed, counted from 0, which is the config's own."""
    copy = config.copy_and_resolve_references()
    copy.update(seed=config.seed + number)
    return copy


def check_steps(path: Path, steps: int) -> None:
    """Refuses to go on with a run of another budget: its learning rate has fallen as for that.

    Raises:
        SettingError: if the run that is in `path` has other steps.
    """
    if (path / "config.json").is_file():
        found = read_config(path).training.steps
        allowed = f"{found}, as of the run that is there, or a new folder"
        require(found == steps, f"training.steps for {path}", steps, allowed)


def finished(path: Path, config: ConfigDict) -> bool:
    """Whether all blocks of a run have been trained to its last step."""
    blocks = list(range(config.partition.num_blocks))
    with Checkpoints(path / "checkpoints") as checkpoints:
        steps = checkpoints.resume_steps(blocks, together=config.placement.interface == "shared")
    return all(steps.get(b, 0) >= config.training.steps for b in blocks)
