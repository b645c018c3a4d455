"""Every shipped config trains, samples and is evaluated, shrunk to seconds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dbjax.build import build
from dbjax.config import load_config
from dbjax.data import DatasetInfo, in_memory_dataset, write_latents
from dbjax.errors import SettingError
from dbjax.monitor import read_journal
from experiments import cli, evaluate, report, sample, train

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL_DIT = [
    "--config.model.size=tiny",
    "--config.model.depth=3",
    "--config.model.width=16",
    "--config.model.num_heads=2",
]
SHRUNK = {
    "spiral": ["--config.model.width=8", "--config.model.depth=3"],
    "dit_digits": SMALL_DIT,
    "dit_cifar10": SMALL_DIT,
    "dit_imagenet256": SMALL_DIT,
}
BRIEF = [
    "--config.training.steps=4",
    "--config.training.log_every=2",
    "--config.placement.steps_per_dispatch=2",
    "--config.data.batch_size=4",
    "--config.sampling.num_steps=5",
    "--config.sampling.batch_size=16",
]


def images_like(name: str, shape: tuple[int, ...]):
    """A stand-in for a data set that cannot be had offline."""
    rng = np.random.default_rng(0)

    def load(data_dir: str | None, split: str):
        return in_memory_dataset(
            name, rng.integers(0, 256, (32, *shape), np.uint8), np.arange(32) % 10,
            num_classes=10, mean=127.5, std=63.75, max_value=255.0,
        )  # fmt: skip

    return load


@pytest.mark.parametrize("name", sorted(SHRUNK))
def test_shipped_configs_train_and_sample(name, tmp_path, monkeypatch):
    data = []
    if name == "dit_cifar10":
        from dbjax.data import registry

        entry = registry.DatasetEntry(images_like("cifar10", (32, 32, 3)), flippable=True)
        monkeypatch.setitem(registry.DATASETS, "cifar10", entry)
    if name == "dit_imagenet256":
        latents = np.random.default_rng(0).standard_normal((16, 32, 32, 4)).astype(np.float16)
        write_latents(tmp_path / "data" / "train.array_record", latents, np.arange(16) % 1000)
        data = [f"--config.data.data_dir={tmp_path / 'data'}"]
    run = tmp_path / "run"
    config = f"--config={CONFIGS / name}.py"
    train.main([config, f"--workdir={run}", *BRIEF, *SHRUNK[name], *data])
    rows = read_journal(run)
    seen = {(row["block"], row["step"]) for row in rows}
    assert seen == {(block, step) for block in range(3) for step in (2, 4)}
    assert all(np.isfinite(row["loss"]) for row in rows)
    sample.main([f"--workdir={run}", "--num_samples=8"])
    samples = np.load(run / "samples" / "samples.npz")
    info: DatasetInfo = build(load_config(run / "config.json")).dataset.info
    assert samples["image"].shape == (8, *info.image_shape)
    assert (run / "samples" / "samples.png").stat().st_size > 0
    assert (run / "samples" / "samples_path.png").stat().st_size > 0


def test_every_shipped_config_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {*SHRUNK, "vit_digits"}


def test_a_classifier_and_its_twin_train_and_one_is_evaluated(tmp_path):
    small = [f"--config.model.{s}" for s in ("depth=3", "width=16", "num_heads=2", "mlp_hidden=16")]
    runs = [tmp_path / "blocks", tmp_path / "end_to_end"]
    for run in runs:
        config = f"--config={CONFIGS / 'vit_digits.py'}:{run.name}"
        steps = 3 if run.name == "blocks" else 1
        train.main(
            [config, f"--workdir={run}", *BRIEF, *small, f"--config.sampling.num_steps={steps}"]
        )
    evaluate.main(["--workdir", str(runs[0])])
    results = json.loads((runs[0] / "evaluation.json").read_text())
    assert results["num_samples"] == 360  # the whole test split
    assert 0 <= results["accuracy"] <= 1
    assert 0 < results["negative_log_likelihood"] < 10
    assert 0 <= results["calibration_error"] <= 1
    assert results["layer_evaluations_per_sample"] == 3
    for program in (sample, report):
        with pytest.raises(SettingError, match=r"family.* is 'vit'; allowed: dit or mlp"):
            program.main([f"--workdir={runs[0]}", *(["--out=x"] if program is report else [])])


def test_two_runs_are_evaluated_side_by_side_and_reported(tmp_path):
    runs = [tmp_path / "blocks", tmp_path / "end_to_end"]
    for run in runs:
        config = f"--config={CONFIGS / 'dit_digits.py'}:{run.name}"
        train.main([config, f"--workdir={run}", *BRIEF, *SMALL_DIT])
    evaluate.main(["--workdir", *map(str, runs), "--num_samples=32"])
    found = [json.loads((run / "evaluation.json").read_text()) for run in runs]
    for results in found:
        assert results["frechet_distance"] > 0
        assert 0 <= results["label_accuracy"] <= 1
        assert results["train_bytes"]["total"] > results["train_bytes"]["parameters"] > 0
        assert results["seconds_per_step"] > 0
        assert set(results["provenance"]) >= {"command", "commit", "device"}
    blocks, whole = (results["layer_evaluations_per_sample"] for results in found)
    assert whole == 3 * blocks == 5 * 3 * 2  # 5 steps, 3 layers, guidance doubles
    assert found[0]["train_bytes"]["parameters"] < found[1]["train_bytes"]["parameters"]
    report.write_report(runs, tmp_path / "report.html", "Digits")
    assert "<html" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("program", [train, sample, evaluate, report])
def test_help_suffices(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["program", "--help"])
    with pytest.raises(SystemExit) as exit_:
        cli.program(program.main)
    assert exit_.value.code == 0
    assert "--workdir" in capsys.readouterr().out
