"""Where a figure comes from: command, commit, device and versions."""

import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import psutil


def provenance() -> dict[str, str]:
    """What is needed to make a figure again."""
    return {
        "command": " ".join(["python", "-m", *_module_and_arguments()]),
        "commit": _commit(),
        "device": _device(),
        "python": platform.python_version(),
        "jax": version("jax"),
        "flax": version("flax"),
    }


def _device() -> str:
    """The accelerator, or the processor and its cores where there is none."""
    if jax.default_backend() != "cpu":
        return f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    described = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", described.read_text()) if described.exists() else []
    return f"{psutil.cpu_count()} cores, {names[0] if names else platform.processor()}"


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
