import sys

import pytest

from dbjax.data import TokenizerCodec
from experiments import cli, train_tokenizer
from tests.data import texts


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the program, returns its status and what it printed."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train_tokenizer", *map(str, arguments)])
        status = cli.program(train_tokenizer.main)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.err if status else printed.out

    return run


def test_every_text_can_be_written_and_read(run, tmp_path):
    files = [texts.write(tmp_path / f"a.txt{suffix}", texts.VERSE) for suffix in texts.WRITE]
    out = tmp_path / "new" / "tokenizer.json"
    status, printed = run("--files", *files, "--vocabulary=290", f"--out={out}")
    assert (status, printed) == (0, f"290 tokens; written to {out}\n")
    codec = TokenizerCodec(str(out))
    for text in (texts.VERSE, "日本語 é \x00\n\n\t", ""):
        assert codec.decode(codec.encode(text)) == text
    assert len(codec.encode(texts.VERSE)) < 0.8 * len(texts.VERSE)
    assert codec.token("</s>") == 0
    assert [path.name for path in out.parent.iterdir()] == ["tokenizer.json"]


def test_the_same_text_gives_the_same_tokenizer(run, tmp_path):
    file = texts.write(tmp_path / "a.txt", texts.VERSE)
    for name in ("a.json", "b.json"):
        assert run("--files", file, "--vocabulary=300", f"--out={tmp_path / name}")[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_vocabulary_that_the_text_does_not_fill(run, tmp_path):
    file = texts.write(tmp_path / "a.txt", "aa aa")
    status, printed = run("--files", file, "--vocabulary=9000", f"--out={tmp_path / 't.json'}")
    assert status == 0
    assert printed.startswith("258 tokens, since no more pairs repeat; written to")


@pytest.mark.parametrize(
    ("content", "vocabulary", "out", "sentence"),
    [
        (
            b"text",
            256,
            "t.json",
            "--vocabulary is 256; allowed: 257 or more, for 256 bytes",
        ),
        (b"text", 300, "t.txt", "--out is '{here}/t.txt'; allowed: the path of a tokenizer.json"),
        (b"text", 300, "there.json", "{here}/there.json is there already; allowed: a new file"),
        (b"text", 300, "there.json/t.json", "--out is '{here}/there.json/t.json', which cannot be"),
        (b"", 300, "t.json", "bytes of text in --files is 0; allowed: 1 or more"),
        (b"a\xffb", 300, "t.json", "{here}/a.txt is not UTF-8: byte 1 is 0xff"),
        (None, 300, "t.json", "{here}/a.txt cannot be read: No such file or directory"),
    ],
)
def test_a_refusal_is_one_sentence_and_status_2(content, vocabulary, out, sentence, run, tmp_path):
    (tmp_path / "there.json").write_text("mine")
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    status, error = run(
        *("--files", tmp_path / "a.txt", f"--vocabulary={vocabulary}", f"--out={tmp_path / out}")
    )
    assert status == 2
    assert error.startswith(f"error: {sentence.format(here=tmp_path)}")
    assert error.count("\n") == 1
    assert (tmp_path / "there.json").read_text() == "mine"
    assert not (tmp_path / "t.json").exists()


def test_without_the_library_the_refusal_says_how_to_get_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    file = texts.write(tmp_path / "a.txt", texts.VERSE)
    status, error = run("--files", file, "--vocabulary=300", f"--out={tmp_path / 't.json'}")
    assert status == 2
    assert error.startswith("error: the package tokenizers is not installed")
