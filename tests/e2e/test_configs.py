"""Every shipped config trains, samples and is evaluated, shrunk to seconds."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from dbjax import session
from dbjax.build import build, read_settings, task_and_trainer
from dbjax.config import load_config
from dbjax.data import DatasetInfo, in_memory_dataset, write_latents
from dbjax.data.registry import describe_dataset
from dbjax.errors import SettingError
from dbjax.monitor import read_journal
from dbjax.partition import sampling_grid
from experiments import cli, evaluate, report, sample, train

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
    "dit_drawn": [*SMALL_DIT, "--config.partition.num_blocks=3"],
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


NOPROP = ("dt", "ct", "fm", "backprop", "blocks")
CLASSIFIERS = {
    **dict.fromkeys(
        (
            "vit_digits",
            "vit_digits_converted",
            "vit_fashion_mnist",
            "vit_cifar100",
            "vit_tiny_imagenet",
        ),
        ("blocks", "end_to_end"),
    ),
    **dict.fromkeys(("ff_digits", "ff_cifar100"), ("forward_forward", "contrastive", "end_to_end")),
    **dict.fromkeys(("noprop_digits", "noprop_mnist", "noprop_cifar10", "noprop_cifar100"), NOPROP),
}
"""Classifiers of each kind run in tests/contract/test_methods.py."""


TEXTS = ("mdm_docs", "ar_docs", "ar_lm1b", "ar_owt", "huginn_docs", "huginn_lm1b")
"""Run in test_text.py, test_autoregressive.py and test_recurrent.py."""
LARGE_TEXTS = ("mdm_text8",)


def test_every_shipped_config_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.py")} == {
        *SHRUNK,
        *CLASSIFIERS,
        *TEXTS,
        *LARGE_TEXTS,
    }


@pytest.mark.parametrize(
    ("name", "variant"), [(name, v) for name, variants in CLASSIFIERS.items() for v in variants]
)
def test_shipped_classifiers_make_their_task(name, variant):
    """In all their size, without their data."""
    settings = read_settings(load_config(f"{CONFIGS / name}.py:{variant}"))
    info = describe_dataset(settings.data).info
    task, trainer = task_and_trainer(settings, info)
    assert task.partition.num_blocks == {"blocks": task.partition.num_blocks, "dt": 10}.get(
        variant, 1
    )
    grid = sampling_grid(
        task.partition, task.noise, settings.sampling.num_steps, settings.sampling.grid
    )
    # Each block is asked as often as the others, but for what does not divide.
    counts = [grid.blocks.count(b) for b in range(task.partition.num_blocks)]
    assert max(counts) - min(counts) <= 1
    assert jax.eval_shape(lambda: trainer.init(0)).params["layers"]


@pytest.mark.slow
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
    with pytest.raises(SettingError, match=r"family.* is 'vit'; allowed: dit or mlp or masked_lm"):
        sample.main([f"--workdir={runs[0]}"])
    evaluate.main(["--workdir", str(runs[1]), "--num_noises=2"])
    report.main(["--workdir", *map(str, runs), f"--out={tmp_path / 'report.html'}"])
    assert "Accuracy" in (tmp_path / "report.html").read_text()


@pytest.fixture
def compiled(tmp_path):
    """A folder that has only what this test compiles."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "compiled"))
    compilation_cache.reset_cache()
    yield tmp_path / "compiled"
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def test_two_runs_are_evaluated_side_by_side_and_reported(tmp_path, compiled):
    runs = [tmp_path / "blocks", tmp_path / "end_to_end"]
    for run in runs:
        config = f"--config={CONFIGS / 'dit_digits.py'}:{run.name}"
        train.main([config, f"--workdir={run}", *BRIEF, *SMALL_DIT])
    trained = set(compiled.glob("jit_run-*"))
    evaluate.main(["--workdir", *map(str, runs), "--num_samples=32"])
    # The programs that are timed are those of training; memory is that of one step alone.
    assert trained and len(set(compiled.glob("jit_run-*")) - trained) == len(runs)
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


@pytest.mark.parametrize("variant", ["blocks", "end_to_end"])
@pytest.mark.parametrize("name", LARGE_TEXTS)
def test_published_language_models_make_their_task(name, variant):
    """In all their size, without their data."""
    settings = read_settings(load_config(f"{CONFIGS / name}.py:{variant}"))
    task, trainer = task_and_trainer(settings, describe_dataset(settings.data).info)
    blocks = [
        jax.eval_shape(lambda b=b: trainer.init(b)) for b in range(len(task.partition.layers))
    ]
    assert sum(len(own) for own in task.partition.layers) == 12
    size = sum(x.size for state in blocks for x in jax.tree.leaves(state.params["layers"]))
    assert size == 12 * 7_377_408


@pytest.mark.slow
def test_a_published_language_model_trains_on_a_text_of_its_kind(tmp_path):
    """Two steps of a shrunk network, from a file as long as text8 has to be."""
    text = tmp_path / "text8"
    text.write_bytes(b"the quick brown fox jumps over the lazy dog " * 2_272_728)
    with text.open("rb+") as file:
        file.truncate(100_000_000)
    overrides = {
        "data.data_dir": str(text),
        "data.length": 16,
        "data.batch_size": 4,
        "model.depth": 3,
        "model.width": 8,
        "model.num_heads": 2,
        "model.mlp_hidden": 8,
        "placement.steps_per_dispatch": 1,
        "training.steps": 2,
    }
    setup = build(load_config(CONFIGS / "mdm_text8.py", overrides))
    model = session.run(
        setup.trainer, setup.dataset, setup.data, setup.placement, steps=2, show=False
    )
    assert model.steps == {0: 2, 1: 2, 2: 2}
