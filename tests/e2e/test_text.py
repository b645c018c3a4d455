"""A text model trains, is evaluated, fills in prompts and is reported on, shrunk to seconds."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dbjax import transfer
from dbjax.build import build
from dbjax.config import load_config
from dbjax.errors import SettingError
from dbjax.metrics.text import bits_per_token
from dbjax.monitor import read_journal
from dbjax.pictures import block_colour
from dbjax.workdir import claim
from experiments import compare_methods, evaluate, evaluate_text, input_speed, report, sample, train
from experiments.sample_text import shown_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = "configs/mdm_docs.py"
SMALL = [
    *(
        f"--config.model.{setting}"
        for setting in ("depth=3", "width=8", "num_heads=2", "mlp_hidden=8", "embed_width=4")
    ),
    "--config.training.steps=4",
    "--config.training.log_every=2",
    "--config.placement.steps_per_dispatch=2",
    "--config.data.length=16",
    "--config.data.stride=8",
    "--config.data.batch_size=4",
    "--config.sampling.num_steps=6",
    "--config.sampling.batch_size=16",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, quick_compilation):
    """Blocks and their twin, trained and evaluated."""
    root = tmp_path_factory.mktemp("runs")
    folders = [root / "blocks", root / "end_to_end"]
    for folder in folders:
        train.main([f"--config={CONFIG}:{folder.name}", f"--workdir={folder}", "--quiet", *SMALL])
    with pytest.MonkeyPatch.context() as patch:
        # As few as MAUVE takes, to see that it is measured.
        patch.setattr(evaluate_text, "MAUVE_TEXTS", 20)
        patch.setattr(evaluate_text, "FITTED", 200)
        patch.setattr(evaluate_text, "MASKED", 1)
        evaluate.main(["--workdir", *map(str, folders), "--num_samples=20"])
    return folders


def evaluated(run: Path) -> dict:
    return json.loads((run / "evaluation.json").read_text())


def test_training_is_described_and_watched_in_sequences(runs):
    rows = read_journal(runs[0])
    assert {(row["block"], row["step"]) for row in rows} == {
        (block, step) for block in range(3) for step in (2, 4)
    }
    assert any("examples_per_second" in row for row in rows)


@pytest.mark.parametrize("which", [0, 1])
def test_the_bound_is_of_all_test_texts_and_its_parts_add_up(runs, which):
    found = evaluated(runs[which])
    test = build(load_config(runs[which] / "config.json", ["data.split=test"])).dataset
    assert found["likelihood"] == "upper bound"
    assert found["num_tokens"] == 16 * test.info.size
    parts = sum(row["nats_per_token"] for row in found["by_block"])
    # Hardly trained: some way below a guess. The rest is the bound's constant.
    assert 0 < found["nats_per_token"] - parts < 1e-3
    assert 2 < parts < np.log(test.info.vocabulary) + 0.1
    assert found["characters_per_token"] == 1
    assert found["bits_per_character"] == pytest.approx(bits_per_token(found["nats_per_token"]))
    assert 0 < found["standard_error"] < 0.5
    assert 2 < found["unigram_nats_per_token"] < found["nats_per_token"] + 0.5
    assert [row["time"] for row in found["loss_over_noise"]][:2] == pytest.approx(
        [59 / 60, 57 / 60]
    )
    assert found["edges_time"][0] == 1 and found["edges_time"][-1] == 0
    assert found["layer_evaluations_per_sample"] == [6, 18][which]
    assert found["train_bytes"]["total"] > 0 and found["seconds_per_step"] > 0


def test_samples_are_kept_as_text_and_tokens_and_measured_beside_real_ones(runs):
    found, folder = evaluated(runs[0]), runs[0] / "samples"
    codec = build(load_config(runs[0] / "config.json")).dataset.info.codec
    tokens = np.load(folder / "samples.npz")["tokens"]
    assert tokens.shape == (20, 16) and tokens.min() >= 0
    text = (folder / "samples.txt").read_text()
    assert text.startswith(f"--- 1 ---\n{codec.decode(tokens[0])}\n--- 2 ---\n")
    for name in ("generated", "real"):
        assert found[name]["num_texts"] == 20
        assert "proxy" in found[name]["scorer"]
        assert 0 < found[name]["distinct_1"] <= found[name]["distinct_3"] <= 1
    assert found["generated"]["perplexity"] > found["real"]["perplexity"]
    assert "temperature 1.0" in found["generated"]["decoding"]
    assert found["mauve"]["num_reference"] == found["mauve"]["num_generated"] == 20


def test_too_few_texts_leave_mauve_out_and_say_so(runs, monkeypatch):
    setup = build(load_config(runs[0] / "config.json"))
    texts = (["abc abc abc"] * 3, np.tile(np.arange(11), (3, 1)))
    found = evaluate_text._measures(setup, texts, texts, ["abc abc abc"])
    assert found["mauve"] is None
    assert found["mauve_left_out"] == "3 texts on each side; it takes 500"
    monkeypatch.setattr(evaluate_text, "MAUVE_TEXTS", 3)
    monkeypatch.setattr(evaluate_text.importlib.util, "find_spec", lambda name: None)
    found = evaluate_text._measures(setup, texts, texts, ["abc abc abc"])
    assert found["mauve_left_out"] == "mauve-text is not installed"


def test_prompts_are_filled_in_and_steps_shown(runs, capsys):
    capsys.readouterr()
    prompt = ["--prompt=The %% statement", "--gap=%", "--show_steps"]
    sample.main([f"--workdir={runs[0]}", "--num_samples=3", "--name=filled", *prompt])
    printed = capsys.readouterr().out
    texts = re.split(r"--- \d ---\n", (runs[0] / "samples" / "filled.txt").read_text())[1:]
    assert len(texts) == 3
    for text in texts:
        assert re.fullmatch(r"The .. statement\n", text, re.DOTALL)
        assert text in printed
    assert "step 1 of 6, " in printed and "step 6 of 6, 0% masked, block 2\nThe " in printed
    assert "\x1b" not in printed


def test_terminals_see_the_colours_of_blocks(runs):
    shown = json.loads((runs[0] / "samples" / "shown.json").read_text())
    found = report.Revealing(**shown["revealing"])
    painted = shown_step(found, 6, "_", colour=True)
    codes = ";".join(str(value) for value in bytes.fromhex(block_colour(2)[1:]))
    assert f"\x1b[38;2;{codes}m" in painted
    plain = re.sub(r"\x1b\[[\d;]*m", "", painted)
    assert plain == shown_step(found, 6, "_", colour=False)
    assert plain.partition("\n")[2] == "".join(found.pieces)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--label=3"], "--label is 3; allowed: none to give: texts have no classes"),
        (["--gap="], "gap is ''; allowed: one character or more, which stand for a masked token"),
        (
            ["--prompt=seventeen letters"],
            "number of tokens of the prompt is 17; allowed: at most 16, which is data.length",
        ),
        (["--num_samples=0"], "--num_samples is 0; allowed: 1 or more"),
    ],
)
def test_what_cannot_be_written_is_refused(runs, arguments, sentence):
    with pytest.raises(SettingError) as refusal:
        sample.main([f"--workdir={runs[0]}", *arguments])
    assert str(refusal.value) == sentence


def test_an_unknown_character_is_refused_with_its_place(runs):
    with pytest.raises(SettingError, match=r"^position 1 of the prompt is 'é' \(U\+00E9\); allow"):
        sample.main([f"--workdir={runs[0]}", "--prompt=_é"])


def test_programs_of_other_models_refuse_text(runs, tmp_path):
    with pytest.raises(SettingError, match=r"family is 'masked_lm'; allowed: a classifier: 'vit'"):
        compare_methods.read_methods([("text", (CONFIG, {}))], [])
    with pytest.raises(SettingError, match=r"family is 'masked_lm'; allowed: one that learns ima"):
        input_speed.main([f"--config={CONFIG}"])
    with pytest.raises(SettingError, match=r"--num_noises is 2; allowed: nothing for .*generates"):
        evaluate.main(["--num_noises=2", "--workdir", str(runs[0])])
    claim(tmp_path, load_config("configs/spiral.py"))
    for option, value in (("--prompt=a", "'a'"), ("--gap=_", "'_'"), ("--show_steps", "True")):
        name = option.partition("=")[0]
        with pytest.raises(SettingError) as refusal:
            sample.main([f"--workdir={tmp_path}", option])
        allowed = "nothing for family 'mlp', which writes no text"
        assert str(refusal.value) == f"{name} is {value}; allowed: {allowed}"


def test_blocks_are_not_handed_on_to_texts_of_another_kind(runs, tmp_path):
    new = build(load_config(runs[0] / "config.json", ["data.length=8"]))
    with pytest.raises(SettingError, match=r"length of the data of .* is 16; allowed: 8, as here"):
        transfer.plan(new, tmp_path / "new", runs[0], None)
    new = build(load_config(runs[0] / "config.json", ["data.tokenizer=bytes"]))
    with pytest.raises(SettingError, match=r"vocabulary of the data of .* is 96; allowed: 256, as"):
        transfer.plan(new, tmp_path / "new", runs[0], None)


def test_the_report_holds_figures_texts_and_the_steps_of_one(runs, tmp_path):
    folders = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    file = folders[0] / "samples" / "shown.json"
    shown = json.loads(file.read_text())
    shown["samples"][0] = "a <script> & more"
    shown["revealing"]["pieces"][0] = "<"
    file.write_text(json.dumps(shown))
    report.write_report(folders, tmp_path / "report.html", "Text")
    page = (tmp_path / "report.html").read_text()
    assert "a &lt;script&gt; &amp; more" in page and "<script" not in page
    assert len(re.findall("<svg", page)) == 3
    found = [evaluated(run) for run in runs]
    row = re.search(r'data-key="bits_per_character">(.*?)</tr>', page, re.DOTALL)
    assert row is not None
    values = [float(value) for value in re.findall(r'data-value="([^"]+)"', row.group(1))]
    assert values == [one["bits_per_character"] for one in found]
    assert re.search(r'<small class="(about-equal|better|worse)">', row.group(1))
    perplexity = re.search(r'data-key="generated.perplexity">(.*?)</tr>', page, re.DOTALL)
    assert perplexity is not None and "<small class" not in perplexity.group(1)
    assert 'data-key="mauve.score"' in page
    rows = re.findall(r"<dt>(.*?)</dt>\n<dd>(.*?)</dd>", page, re.DOTALL)
    assert rows[0][0].startswith("after step 1<small>") and rows[-1][0] == "all, by block"
    for block in range(3):
        assert f'background:{block_colour(block)}66">' in rows[-1][1]
    pieces = "".join(re.sub("<[^>]*>", "", rows[-1][1]))
    assert pieces.startswith("&lt;")
    assert "python -m experiments.evaluate --num_samples=20 --workdir again/blocks" in page
    assert "owns time" in page
    report.write_report(folders[1:], tmp_path / "one.html")
    assert "was trained end to end on the text" in (tmp_path / "one.html").read_text()


def test_a_run_that_has_not_been_evaluated_is_not_reported(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    (folder / "samples" / "shown.json").unlink()
    with pytest.raises(SettingError, match=r"has no samples/shown.json; run experiments.evaluate"):
        report.write_report([folder], tmp_path / "report.html")
