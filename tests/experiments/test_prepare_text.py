import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dbjax.data import TextConfig, load_dataset
from experiments import cli, prepare_text
from tests.data import texts

LINES = [f"{number} {line}" for number, line in enumerate(texts.VERSE.split("\n") * 9) if line]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program, returns its status and what it printed."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["prepare_text", *map(str, arguments)])
        status = cli.program(prepare_text.main)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.err if status else printed.out

    return run


def in_split(folder, split):
    dataset = load_dataset(TextConfig("tokens", str(folder), length=1, split=split))
    tokens = dataset.source.read(np.arange(dataset.info.size))["tokens"][:, 0]
    return dataset.info.codec.decode(tokens)


def test_it_prints_what_is_there_now(run, tmp_path):
    file = texts.write(tmp_path / "a.txt.gz", "\n".join(LINES))
    tokenizer = texts.write_tokenizer(tmp_path / "tokenizer.json")
    options = (f"--tokenizer={tokenizer}", "--validation=0.2", "--test=0.2")
    for _ in range(2):
        status, printed = run(file, *options, f"--out={tmp_path / 'out'}")
        assert status == 0
        rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines()}
        assert rows["split"] == ["documents", "tokens", "files"]
        assert sum(int(rows[s][0]) for s in ("train", "validation", "test")) == len(LINES)
        assert printed.splitlines()[-2:] == [
            "'</s>' ends each document",
            f"written to {tmp_path / 'out'}",
        ]
    found = "".join(in_split(tmp_path / "out", s) for s in ("train", "validation", "test"))
    assert sorted(found.split("</s>")[:-1]) == sorted(LINES)


@pytest.mark.parametrize("documents", ["blank", "file"])
def test_other_documents_than_lines(documents, run, tmp_path):
    file = texts.write(tmp_path / "a.txt", texts.VERSE)
    options = (f"--documents={documents}", "--test=0", "--validation=0", "--tokenizer=bytes")
    assert run(file, *options, f"--out={tmp_path / 'out'}")[0] == 0
    stanzas = texts.VERSE.rstrip("\n").split("\n\n")
    expected = texts.VERSE if documents == "file" else "".join(s + "\n" for s in stanzas)
    assert in_split(tmp_path / "out", "train") == expected


class Verse(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set of tensorflow-datasets with two splits."""

    VERSION = tfds.core.Version("1.0.0")
    name = "verse"

    def __init__(self, data_dir, feature="text", splits=("train", "test"), kind="array_record"):
        self._feature, self._splits = feature, splits
        super().__init__(data_dir=str(data_dir), file_format=kind)

    def _info(self):
        features = tfds.features.FeaturesDict({self._feature: tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split):
        for number, line in enumerate(["", *LINES]):
            yield number, {self._feature: line and f"{split}: {line}"}


def write_verse(folder, **options):
    Verse(folder, **options).download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )


def test_a_set_of_tensorflow_datasets_keeps_its_splits(run, tmp_path):
    write_verse(tmp_path)
    options = ("--tfds=verse", f"--data_dir={tmp_path}", "--tokenizer=bytes", "--validation=0.3")
    assert run(*options, f"--out={tmp_path / 'out'}")[0] == 0
    found = {
        split: in_split(tmp_path / "out", split).splitlines()
        for split in ("train", "validation", "test")
    }
    assert sorted(found["test"]) == sorted(f"test: {line}" for line in LINES)
    assert sorted(found["train"] + found["validation"]) == sorted(f"train: {x}" for x in LINES)
    assert 0.1 < len(found["validation"]) / len(LINES) < 0.5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"feature": "words"},
            "features are words; allowed: a set with text",
        ),
        (
            {"splits": ("test",)},
            "splits are test; allowed: a set with train",
        ),
    ],
)
def test_other_sets_are_refused(options, sentence, run, tmp_path):
    write_verse(tmp_path, **options)
    status, error = run(
        "--tfds=verse", f"--data_dir={tmp_path}", "--tokenizer=bytes", f"--out={tmp_path / 'out'}"
    )
    assert status == 2
    assert error == f"error: --tfds is 'verse', whose {sentence} among them\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{text}", "--tokenizer=no.json"], "the tokenizer 'no.json' cannot be read: No such file"),
        (["{text}", "--tokenizer=words"], "--tokenizer is 'words'; allowed: bytes, or the path"),
        (["{text}", "--tokenizer=bytes", "--documents=x"], "--documents is 'x'; allowed: line, b"),
        (["{text}", "--tokenizer=bytes", "--end_token=x"], "--end_token is 'x'; allowed: a token"),
        (["{text}", "--tokenizer=bytes", "--shard_megabytes=0"], "bytes of text in a shard is 0"),
        (["{text}", "--tokenizer=bytes", "--tfds=lm1b"], "there are 1 files and --tfds is 'lm1b'"),
        (["--tokenizer=bytes"], "there are 0 files and --tfds is None; allowed: files, or a set"),
        (
            ["--tokenizer=bytes", "--tfds=lm1b", "--data_dir={here}"],
            "--tfds is 'lm1b', and {here}/lm1b holds no such set",
        ),
        (["{here}/none.txt", "--tokenizer=bytes"], "{here}/none.txt cannot be read: No such file"),
    ],
)
def test_a_refusal_is_one_sentence_and_status_2(arguments, sentence, run, tmp_path):
    places = {"text": texts.write(tmp_path / "a.txt", texts.VERSE), "here": tmp_path}
    out = tmp_path / "out"
    status, error = run(*(each.format(**places) for each in arguments), f"--out={out}")
    assert status == 2
    assert error.startswith(f"error: {sentence.format(**places)}")
    assert error.count("\n") == 1
    assert not out.exists()
