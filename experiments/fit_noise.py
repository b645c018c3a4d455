"""Fits the noise of a task with discrete targets to what a run has learned of it.

Reads how the cross entropy falls with the noise from WORKDIR/evaluation.json, prints the settings
under which it falls evenly (time warping, Dieleman et al. 2022) and those of blocks with equal
shares of it, and writes noise_fit.json, noise_fit.png and noise_fit.svg into WORKDIR.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import scipy.special

from dbjax.build import build
from dbjax.errors import SettingError, require
from dbjax.metrics.noise import equal_loss_edges, fit_log_normal
from dbjax.noise import LogNormalNoise
from dbjax.pictures import STYLE, noise_fit_figure
from dbjax.workdir import read_config
from experiments import cli
from experiments.provenance import provenance

LEFT_OUT = 0.005
"""Share of the fitted density beyond sigma_max: walks must not begin where no block was trained."""


def main(arguments: Sequence[str]) -> None:
    parser = cli.parser("fit_noise", __doc__ or "", config=False)
    parser.add_argument(
        "--workdir", metavar="DIR", type=Path, required=True, help="a run that was evaluated"
    )
    workdir = parser.parse_args(arguments).workdir
    setup = build(read_config(workdir))
    noise = setup.task.noise
    allowed = "a family whose noise is log-normal"
    require(isinstance(noise, LogNormalNoise), "family", setup.config.family, allowed)
    rows = _rows(workdir)
    u, sigma, entropy = (
        np.array([row[name] for row in rows]) for name in ("u", "sigma", "cross_entropy")
    )
    mean, std, error = fit_log_normal(sigma, entropy)
    sigma_max = float(np.exp(mean - std * scipy.special.ndtri(LEFT_OUT)))
    edges = equal_loss_edges(u, entropy, setup.task.partition.num_blocks)
    found = {
        "noise": {"p_mean": mean, "p_std": std, "sigma_max": sigma_max},
        "largest_error": error,
        "partition": {"edges": [round(float(edge), 4) for edge in edges]},
        "cross_entropy": [
            {"sigma": float(s), "nats": float(e)} for s, e in zip(sigma, entropy, strict=True)
        ],
        "provenance": provenance(),
    }
    (workdir / "noise_fit.json").write_text(json.dumps(found, indent=2) + "\n")
    figure = noise_fit_figure(sigma, entropy, noise, (mean, std))
    with matplotlib.rc_context(STYLE):
        figure.savefig(workdir / "noise_fit.png", dpi=200)
        figure.savefig(workdir / "noise_fit.svg", metadata={"Date": None})
    shown = ",".join(f"{edge:.4g}" for edge in edges)
    print(
        "the cross entropy falls evenly, but for "
        f"{error:.0%}, with\n  --config.noise.p_mean={mean:.3g} --config.noise.p_std={std:.3g} "
        f"--config.noise.sigma_max={sigma_max:.3g}\n"
        f"blocks have equal shares of it, under the noise of this run, with\n"
        f"  --config.partition.edges={shown}"
    )


def _rows(workdir: Path) -> list[dict[str, float]]:
    """The cross entropy over the noise, noisiest first.

    Raises:
        SettingError: if the run was not evaluated, or has no cross entropy.
    """
    file = workdir / "evaluation.json"
    if not file.exists():
        raise SettingError(
            f"{workdir} was not evaluated; allowed: a run after experiments.evaluate"
        )
    rows: list[dict[str, float]] = json.loads(file.read_text()).get("loss_over_noise", [])
    if not rows or "cross_entropy" not in rows[0]:
        raise SettingError(
            f"{workdir} has no cross entropy over the noise in its evaluation; allowed: a model of "
            "blocks with classes or tokens as targets"
        )
    return rows


if __name__ == "__main__":
    raise SystemExit(cli.program(main))
