"""Where a figure comes from: command, commit, device and versions."""

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax


def provenance() -> dict[str, str]:
    """What is needed to make a figure again."""
    device = jax.local_devices()[0]
    return {
        "command": " ".join(["python", "-m", *_module_and_arguments()]),
        "commit": _commit(),
        "device": f"{device.device_kind} ({jax.default_backend()}), {platform.machine()}",
        "python": platform.python_version(),
        "jax": version("jax"),
        "flax": version("flax"),
    }


def _module_and_arguments() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name if spec is not None else Path(sys.argv[0]).name
    return [name, *sys.argv[1:]]


def _commit() -> str:
    """The commit of this checkout, marked where files differ from it; unknown outside of git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changed else head
