"""An autoregressive model trains, is evaluated, continues prompts and is reported on."""

import json
import re

import numpy as np
import pytest

from dbjax.build import build
from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.refined_text import Refining
from experiments import (
    evaluate,
    evaluate_text,
    fit_noise,
    report,
    sample,
    train,
    writing_speed,
)
from tests.data import texts

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = "configs/ar_docs.py"
LENGTH = 16
SMALL = [
    *(f"--config.model.{setting}" for setting in ("width=8", "num_heads=2", "mlp_hidden=8")),
    "--config.model.depth=2",
    "--config.training.steps=4",
    "--config.training.log_every=2",
    "--config.placement.steps_per_dispatch=2",
    f"--config.data.length={LENGTH}",
    "--config.data.stride=None",
    "--config.data.batch_size=4",
    "--config.sampling.batch_size=16",
]
BLOCKS = ["--config.partition.num_blocks=2", "--config.sampling.num_steps=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, quick_compilation):
    """Blocks and their twin, trained and evaluated."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / "blocks", root / "end_to_end"]
    for folder, more in zip(folders, (BLOCKS, []), strict=True):
        config = f"--config={CONFIG}:{folder.name}"
        train.main([config, f"--workdir={folder}", "--quiet", *SMALL, *more])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_text, "FITTED", 200)
        evaluate.main(["--workdir", *map(str, folders), "--num_samples=20"])
    return folders


def test_each_is_measured_by_its_next_tokens(runs):
    words = ("of the noisiest block, at pure noise", "exact")
    # Blocks: 2 layers for noisy tokens and 2 for clean ones, for each of 16 tokens.
    for run, likelihood, layers in zip(runs, words, (4 * LENGTH, 2 * LENGTH), strict=True):
        found = json.loads((run / "evaluation.json").read_text())
        test = build(load_config(run / "config.json", ["data.split=test"])).dataset
        assert found["likelihood"] == likelihood
        assert found["num_tokens"] == LENGTH * test.info.size
        assert 2 < found["nats_per_token"] < np.log(test.info.vocabulary) + 0.5
        assert found["layer_evaluations_per_sample"] == layers
        assert found["generated"]["num_texts"] == 20
        assert np.load(run / "samples" / "samples.npz")["tokens"].shape == (20, LENGTH)


def test_the_steps_to_a_text_are_kept(runs):
    shown = json.loads((runs[0] / "samples" / "shown.json").read_text())
    found = Refining(**shown["refining"])
    assert found.text == shown["samples"][0] and found.blocks == [0, 1]
    assert [len(row) for row in found.guesses] == [LENGTH] * 2
    for step in (1, 2):
        assert "".join(span.text for span in found.spans(step)) == "".join(found.guesses[step - 1])
    assert {span.block for span in found.spans(1)} == {0}
    changed = [a != b for a, b in zip(*found.guesses, strict=True)]
    marked = [span.block is not None for span in found.spans(2) for _ in span.text]
    assert marked == changed
    assert json.loads((runs[1] / "samples" / "shown.json").read_text())["refining"] is None


def test_writing_is_timed_beside_the_twin(tmp_path, capsys):
    out = tmp_path / "speed.json"
    small = [text for text in SMALL if "depth" not in text]
    configs = [f"--config={CONFIG}:blocks", f"--twin={CONFIG}:end_to_end", f"--out={out}"]
    writing_speed.main([*configs, *small, "--texts", "2", "--tokens=3", "--repeats=1"])
    twin, blocks = json.loads(out.read_text())["rows"]
    assert twin["ratio"] == 1 and blocks["ratio"] > 0
    assert (twin["layer_evaluations_per_token"], blocks["layer_evaluations_per_token"]) == (6, 14)
    assert "2 at once" in capsys.readouterr().out


def test_noise_can_be_fitted_to_what_was_learned(runs, tmp_path, capsys):
    fit_noise.main([f"--workdir={runs[0]}"])
    found = json.loads((runs[0] / "noise_fit.json").read_text())
    assert found["noise"]["p_std"] > 0 and len(found["cross_entropy"]) == 30
    override = re.findall(r"--(config.partition.edges=\S+)", capsys.readouterr().out)
    overrides = [text.removeprefix("config.") for text in override]
    build(load_config(runs[0] / "config.json", overrides))
    assert (runs[0] / "noise_fit.png").stat().st_size > 0
    (tmp_path / "config.json").write_text((runs[0] / "config.json").read_text())
    with pytest.raises(SettingError, match="was not evaluated"):
        fit_noise.main([f"--workdir={tmp_path}"])


def test_prompts_are_continued_and_the_first_text_is_streamed(runs, capsys):
    for run in runs:
        capsys.readouterr()
        sample.main([f"--workdir={run}", "--num_samples=3", "--prompt=import", "--name=on"])
        printed = capsys.readouterr().out
        texts = re.split(r"--- \d ---\n", (run / "samples" / "on.txt").read_text())[1:]
        assert len(texts) == 3
        assert all(text.startswith("import") and len(text) == LENGTH + 1 for text in texts)
        assert printed.startswith("--- 1, as it is written ---\nimport")
        assert all(text in printed for text in texts)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--show_steps"], "--show_steps is True; allowed: nothing where no token is masked"),
        (
            ["--prompt=sixteen letters!"],
            "the length of --prompt is 16; allowed: fewer than 16 tokens, which is data.length",
        ),
    ],
)
def test_refusals(runs, arguments, sentence):
    with pytest.raises(SettingError) as error:
        sample.main([f"--workdir={runs[0]}", *arguments])
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("config", "epoch"),
    [
        pytest.param("ar_lm1b.py:blocks", 900_000_000 // 256, marks=pytest.mark.slow),
        ("ar_owt.py:end_to_end", 9_000_000_000 // 1024),
    ],
)
def test_published_models_on_a_folder_of_tokens(config, epoch, tmp_path):
    published = load_config(f"configs/{config}")
    model = published.model
    assert (model.depth, model.width, model.num_heads, model.mlp_hidden) == (12, 768, 12, 2048)
    assert published.training.steps == 10 * (epoch // 256)
    data, run = texts.write_folder(tmp_path), tmp_path / "run"
    small = [text.replace("depth=2", "depth=4") for text in SMALL]
    arguments = [f"--config=configs/{config}", f"--config.data.data_dir={data}", *small]
    train.main([*arguments, f"--workdir={run}", "--quiet"])
    sample.main([f"--workdir={run}", "--num_samples=3", "--prompt=Tyger"])
    assert np.load(run / "samples" / "samples.npz")["tokens"].shape == (3, LENGTH)


def test_report(runs, tmp_path):
    out = tmp_path / "report.html"
    report.main(["--workdir", *map(str, runs), f"--out={out}"])
    page = out.read_text()
    assert "of the noisiest block, at pure noise" in page
    assert "at most so many by the whole walk" in page
    assert "bits per character" in page
