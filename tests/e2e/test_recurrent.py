"""Models of recurrent depth train, are evaluated and continue prompts, on tokens and characters."""

import json
import re

import numpy as np
import pytest

from dbjax.build import build
from dbjax.config import load_config
from experiments import evaluate, evaluate_text, sample, train
from tests.data import texts

pytestmark = pytest.mark.usefixtures("quick_compilation")

LENGTH = 16
SMALL = [
    *(f"--config.model.{part}=1" for part in ("prelude", "core", "coda")),
    *(f"--config.model.{setting}" for setting in ("width=8", "num_heads=2", "mlp_hidden=8")),
    "--config.training.steps=4",
    "--config.training.log_every=2",
    "--config.placement.steps_per_dispatch=2",
    f"--config.data.length={LENGTH}",
    "--config.data.stride=None",
    "--config.data.batch_size=4",
    "--config.sampling.batch_size=16",
]


def continued(run, prompt, capsys):
    """Three texts that begin with the prompt; the first is shown as it is written."""
    capsys.readouterr()
    sample.main([f"--workdir={run}", "--num_samples=3", f"--prompt={prompt}", "--name=on"])
    assert capsys.readouterr().out.startswith(f"--- 1, as it is written ---\n{prompt}")
    found = re.split(r"--- \d ---\n", (run / "samples" / "on.txt").read_text())[1:]
    assert all(text.startswith(prompt) for text in found)
    assert np.load(run / "samples" / "on.npz")["tokens"].shape == (3, LENGTH)


@pytest.mark.slow
def test_the_published_model_on_a_folder_of_tokens(tmp_path, monkeypatch, capsys):
    data, run = texts.write_folder(tmp_path), tmp_path / "blocks"
    arguments = ["--config=configs/huginn_lm1b.py", f"--config.data.data_dir={data}"]
    arguments += [f"--workdir={run}", "--quiet", "--config.sampling.num_steps=2"]
    train.main([*arguments, *SMALL])
    monkeypatch.setattr(evaluate_text, "FITTED", 200)
    evaluate.main(["--workdir", str(run), "--num_samples=20"])
    found = json.loads((run / "evaluation.json").read_text())
    vocabulary = build(load_config(run / "config.json")).dataset.info.vocabulary
    assert found["likelihood"] == "at pure noise"
    assert 2 < found["nats_per_token"] < np.log(vocabulary) + 0.5
    # A layer of prelude, and two of core and coda at each of 2 levels for two tokens.
    assert found["layer_evaluations_per_sample"] == (1 + 2 * 2 * 2) * LENGTH
    assert found["generated"]["num_texts"] == 20
    continued(run, "Tyger", capsys)


@pytest.mark.slow
def test_its_twin_on_characters(tmp_path, capsys):
    run = tmp_path / "twin"
    arguments = ["--config=configs/huginn_docs.py:end_to_end", f"--workdir={run}", "--quiet"]
    depth = ["--config.model.mean_recurrence=3", "--config.model.backprop_depth=2"]
    train.main([*arguments, *SMALL, *depth])
    continued(run, "import", capsys)


@pytest.mark.parametrize(("variant", "epochs"), [("blocks", 15), ("end_to_end", 5)])
def test_published_settings(variant, epochs):
    config = load_config(f"configs/huginn_lm1b.py:{variant}")
    model = config.model
    assert (model.prelude, model.core, model.coda) == (2, 4, 2)
    assert (model.width, model.num_heads, model.mlp_hidden) == (512, 8, 2048)
    assert config.training.steps == epochs * 13_732
