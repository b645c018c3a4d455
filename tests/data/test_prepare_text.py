import itertools
import json

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from filelock import FileLock

from dbjax.data import TextConfig, load_dataset, prepare_text, shards
from dbjax.data.codecs import TokenizerCodec
from dbjax.data.documents import Document, Documents, file_documents, read_text
from dbjax.errors import SettingError
from tests.data import texts

SPLITS = ("train", "validation", "test")
LINES = [f"{number}: {line}" for number, line in enumerate(texts.VERSE.split("\n") * 20) if line]


def listed(lines, splits=()):
    """Documents of a list."""
    return Documents(lambda: (Document(x, None, 1) for x in lines), len(lines), "docs", splits)


def prepare(folder, lines=LINES, **options):
    options = {"tokenizer": "bytes", "settings": {}, "shard_bytes": 1500, **options}
    return prepare_text.prepare_text(listed(lines), folder, **options)


def tokens(folder, split):
    """All tokens of a split as one list, read with numpy alone."""
    index = json.loads((folder / "tokens.json").read_text())
    files = [r["shards"][split]["file"] for r in index["rounds"] if split in r["shards"]]
    return [int(x) for file in files for x in np.load(folder / file)]


def content(folder):
    files = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix != ".lock"}
    assert not [name for name in files if name.endswith(".tmp")]
    return files


def refusal(run, *arguments, **options):
    with pytest.raises(SettingError) as caught:
        run(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_document_is_in_one_split_and_ends_with_a_new_line(tmp_path):
    index = prepare(tmp_path / "out")
    assert index.complete
    found = {
        split: bytes(tokens(tmp_path / "out", split)).decode().splitlines() for split in SPLITS
    }
    assert sorted(itertools.chain(*found.values())) == sorted(LINES)
    for lines in found.values():
        assert lines == sorted(lines, key=LINES.index)
    assert {split: sum(s.documents for s in index.of(split)) for split in SPLITS} == {
        split: len(lines) for split, lines in found.items()
    }
    assert 0 < len(found["validation"]) < 0.12 * len(LINES)
    assert 0 < len(found["test"]) < 0.12 * len(LINES)


def test_files_are_of_bounded_size(tmp_path):
    index = prepare(tmp_path / "out", shard_bytes=1000)
    assert len(index.rounds) > 5
    for split in SPLITS:
        for shard in index.of(split):
            loaded = np.load(tmp_path / "out" / shard.file)
            assert loaded.dtype == np.uint8
            assert len(loaded) == shard.tokens <= 1000 + shard.documents
    assert len(prepare(tmp_path / "one", shard_bytes=1).rounds) == len(LINES)


def test_a_tokenizer_ends_documents_with_its_own_token(tmp_path):
    tokenizer = texts.write_tokenizer(tmp_path / "tokenizer.json")
    index = prepare(tmp_path / "out", tokenizer=tokenizer, test=0.0, validation=0.0)
    codec = TokenizerCodec(tokenizer)
    expected = [id for line in LINES for id in [*codec.encode(line).tolist(), 0]]
    assert tokens(tmp_path / "out", "train") == expected
    assert index.settings["end_token"] == "</s>"
    assert np.load(tmp_path / "out" / "train-00000.npy").dtype == np.uint16
    named = prepare(tmp_path / "x", tokenizer=tokenizer, end_token="Ġthe")
    assert named.settings["end_token"] == "Ġthe"
    assert tokens(tmp_path / "x", "train")[-1] == codec.token("Ġthe")
    for options in ({"tokenizer": tokenizer, "end_token": "<eos>"}, {"end_token": "<eos>"}):
        message = refusal(prepare, tmp_path / "y", **options)
        assert message.startswith("--end_token is '<eos>'; allowed: a token of the tokenizer")
    assert not (tmp_path / "y").exists()


def test_long_documents_are_tokenised_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("dbjax.data.codecs._PIECE", 20)
    monkeypatch.setattr(prepare_text, "_BATCH", 50)
    tokenizer = texts.write_tokenizer(tmp_path / "tokenizer.json")
    prepare(tmp_path / "out", [texts.VERSE], tokenizer=tokenizer, test=0.0, validation=0.0)
    expected = [*TokenizerCodec(tokenizer).encode(texts.VERSE).tolist(), 0]
    assert tokens(tmp_path / "out", "train") == expected


def test_equal_documents_are_never_in_two_splits(tmp_path):
    prepare(tmp_path / "out", LINES * 2)
    for split in SPLITS:
        lines = bytes(tokens(tmp_path / "out", split)).decode().splitlines()
        assert len(lines) == 2 * len(set(lines))


def test_published_splits_are_kept(tmp_path):
    documents = Documents(
        lambda: (Document(x, "test" if i % 2 else None, 1) for i, x in enumerate(LINES)),
        *(len(LINES), "docs", ("test",)),
    )
    index = prepare_text.prepare_text(
        documents, tmp_path / "out", tokenizer="bytes", settings={}, validation=0.5
    )
    assert bytes(tokens(tmp_path / "out", "test")).decode().splitlines() == LINES[1::2]
    assert index.settings["shares"] == {"validation": 0.5}
    assert 0.3 < index.of("validation")[0].documents / len(LINES[::2]) < 0.7


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", ["bytes", "tokenizer.json"])
@pytest.mark.parametrize("split", SPLITS)
def test_sequences_of_a_folder(split, tokenizer, tmp_path):
    if tokenizer != "bytes":
        tokenizer = texts.write_tokenizer(tmp_path / tokenizer)
    folder = tmp_path / "out"
    prepare(folder, tokenizer=tokenizer, shard_bytes=500)
    config = TextConfig("tokens", str(folder), length=7, stride=3, split=split)
    dataset = load_dataset(config)
    flat, stride = tokens(folder, split), 3 if split == "train" else 7
    expected = [flat[a : a + 7] for a in range(0, len(flat) - 6, stride)]
    assert dataset.info.size == len(expected)
    read = dataset.source.read(np.arange(dataset.info.size))["tokens"]
    assert read.dtype == np.int32
    assert read.tolist() == expected
    assert dataset.info.vocabulary == (256 if tokenizer == "bytes" else 300)
    assert all(isinstance(each, np.memmap) for each in dataset.source._tokens)


def test_the_fingerprint_is_that_of_the_tokens(tmp_path):
    tokenizer = texts.write_tokenizer(tmp_path / "tokenizer.json")
    for name, options in {
        "a": {},
        "b": {},
        "c": {"lines": LINES[1:]},
        "d": {"tokenizer": tokenizer},
    }.items():
        prepare(tmp_path / name, **options)
    found = {
        name: load_dataset(TextConfig("tokens", str(tmp_path / name), length=7)).info.fingerprint
        for name in "abcd"
    }
    assert found["a"] == found["b"]
    assert len(set(found.values())) == 3


def test_folders_that_are_not_whole_are_refused(tmp_path):
    def load(folder, split="train"):
        return load_dataset(TextConfig("tokens", folder and str(folder), length=7, split=split))

    assert "data.data_dir is None; allowed: a folder that" in refusal(load, None)
    assert "which has no tokens.json; allowed: a folder that" in refusal(load, tmp_path)
    out = tmp_path / "out"
    prepare(out, validation=0.0, tokenizer=texts.write_tokenizer(tmp_path / "t.json"))
    assert f"the validation text of {out} has 0 tokens" in refusal(load, out, "validation")
    files = content(out)

    (out / "train-00001.npy").write_bytes(files["train-00001.npy"][:-10])
    assert "train-00001.npy cannot be read: mmap length is greater" in refusal(load, out)
    np.save(out / "train-00001.npy", np.zeros(3, np.uint16))
    assert "train-00001.npy holds 3 tokens; allowed: " in refusal(load, out)
    (out / "train-00001.npy").unlink()
    assert "train-00001.npy cannot be read: No such file" in refusal(load, out)
    (out / "train-00001.npy").write_bytes(files["train-00001.npy"])

    (out / "tokenizer.json").write_bytes(files["tokenizer.json"] + b"\n")
    assert "is not the tokenizer that the tokens beside it were made with" in refusal(load, out)
    (out / "tokenizer.json").write_bytes(files["tokenizer.json"])
    load(out)

    index = json.loads(files["tokens.json"])
    (out / "tokens.json").write_text(json.dumps({**index, "complete": False}))
    assert "whose tokens are not complete; allowed: " in refusal(load, out)
    (out / "tokens.json").write_text(json.dumps({**index, "version": 2}))
    assert "tokens.json cannot be read: it is of version 2, not 1" in refusal(load, out)
    (out / "tokens.json").write_text(json.dumps({**index, "colour": 2}))
    assert "tokens.json cannot be read: " in refusal(load, out)
    (out / "tokens.json").write_bytes(files["tokens.json"][:50])
    assert "tokens.json cannot be read: " in refusal(load, out)


# --- going on where another process was killed ----------------------------------------------------


@pytest.mark.parametrize("survives", range(0, 12, 3))
def test_what_a_killed_process_leaves_behind_is_continued(survives, tmp_path, monkeypatch):
    prepare(tmp_path / "whole")
    tokenised = []
    encode_all, write_file = prepare_text.encode_all, shards.write_file

    class Killed(BaseException):
        pass

    writes = itertools.count()

    def dies(path, raw):
        if next(writes) >= survives:
            path.with_name(f"{path.name}.tmp").write_bytes(raw[:5])
            raise Killed
        write_file(path, raw)

    def counted(codec, documents):
        tokenised.extend(documents)
        return encode_all(codec, documents)

    monkeypatch.setattr(prepare_text, "encode_all", counted)
    monkeypatch.setattr(shards, "write_file", dies)
    with pytest.raises(Killed):
        prepare(tmp_path / "out")
    monkeypatch.setattr(shards, "write_file", write_file)
    done = shards.read_index(tmp_path / "out")
    kept = sum(s.documents for r in (done.rounds if done else ()) for s in r.shards.values())
    tokenised.clear()
    prepare(tmp_path / "out")
    assert tokenised == LINES[kept:]
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_file_is_made_again_and_no_other(damage, tmp_path):
    folder = tmp_path / "out"
    prepare(folder)
    before = content(folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    path = folder / "train-00001.npy"
    if damage == "missing":
        path.unlink()
    else:
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw if damage == "changed" else raw[:-1])
    prepare(folder)
    assert content(folder) == before
    kept = {p.name for p in folder.glob("*.npy") if p.stat().st_mtime_ns == times[p.name]}
    assert kept == {name for name in times if "00001" not in name}


def test_other_text_tokenizers_and_settings_are_refused(tmp_path):
    folder = tmp_path / "out"
    prepare(folder)
    before = content(folder)
    tokenizer = texts.write_tokenizer(tmp_path / "tokenizer.json")
    other_text = f"{folder} holds the tokens of other text; allowed: the same documents in the same"
    for options, message in (
        ({"tokenizer": tokenizer}, f"{folder} holds the tokens of another tokenizer; allowed: tha"),
        ({"lines": LINES[:-1]}, other_text),
        ({"lines": LINES[:20]}, other_text),
        ({"lines": [*LINES, "more"]}, other_text),
        ({"lines": LINES[::-1]}, other_text),
        ({"test": 0.1}, f"{folder} holds tokens made with shares {{'validation': 0.05, 'test': 0."),
        ({"shard_bytes": 99}, f"{folder} holds tokens made with shard_bytes 1500, here it is 99;"),
        ({"settings": {"documents": "line"}}, f"{folder} holds tokens made with documents None, h"),
    ):
        assert refusal(prepare, folder, **options).startswith(message)
        assert content(folder) == before


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "main.tex").write_text("mine")
    message = refusal(prepare, tmp_path / "thesis")
    assert "holds main.tex, which is not of these tokens; allowed: an empty or new" in message
    for place in (tmp_path / "thesis" / "main.tex", tmp_path / "thesis" / "main.tex" / "out"):
        assert "cannot be written: Not a directory" in refusal(prepare, place)
    (tmp_path / "busy").mkdir()
    with FileLock(tmp_path / "busy" / "tokens.lock"):
        assert "is being written by another process" in refusal(prepare, tmp_path / "busy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lines": []}, "the number of documents is 0; allowed: 1 or more"),
        ({"tokenizer": "characters"}, "--tokenizer is 'characters'; allowed: bytes, or the path"),
        ({"validation": 1.0}, "--validation is 1.0; allowed: a number in [0, 1)"),
        ({"test": 0.95}, "--test is 0.95; allowed: a number in [0, 0.95), which leaves some"),
        ({"shard_bytes": 0}, "bytes of text in a shard is 0; allowed: 1 or more"),
    ],
)
def test_impossible_settings_are_refused(options, message, tmp_path):
    assert refusal(prepare, tmp_path / "out", **options).startswith(message)
    assert not (tmp_path / "out").exists()


# --- documents of files ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", texts.WRITE)
def test_documents_are_lines_paragraphs_or_files(suffix, tmp_path):
    files = [texts.write(tmp_path / f"a.txt{suffix}", "one\r\ntwo\n\n \nthree\nfour"),
             texts.write(tmp_path / f"b.txt{suffix}", "\n\nfive\n\n")]  # fmt: skip
    for separation, expected in {
        "line": ["one", "two", "three", "four", "five"],
        "blank": ["one\r\ntwo", "three\nfour", "five"],
        "file": ["one\r\ntwo\n\n \nthree\nfour", "\n\nfive"],
    }.items():
        documents = file_documents(files, separation)
        found = list(documents.read())
        assert [each.text for each in found] == expected
        assert all(each.split is None for each in found)
        assert documents.total == sum(path.stat().st_size for path in files)
        assert 0 < sum(each.cost for each in found) <= documents.total


@hypothesis.given(st.lists(st.sampled_from(["a", "é b", " ", "", "\t"])))
def test_paragraphs_are_what_stands_between_blank_lines(lines):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = texts.write(Path(folder) / "a.txt", "\n".join(lines))
        found = [each.text for each in file_documents([path], "blank").read()]
    groups = itertools.groupby(lines, key=lambda line: bool(line.strip()))
    assert found == ["\n".join(group) for full, group in groups if full]


def test_all_text_is_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("dbjax.data.documents._CHUNK", 40)
    files = [texts.write(tmp_path / f"a.txt{suffix}", texts.VERSE) for suffix in texts.WRITE]
    total, chunks = read_text(files)
    costs, found = zip(*chunks, strict=True)
    assert "".join(found) == texts.VERSE * 3
    assert len(found) == 12
    assert 0 < sum(costs) <= total


def test_files_that_cannot_be_read_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    assert "cannot be read: No such file" in refusal(file_documents, [path], "line")
    assert "cannot be read: No such file" in refusal(read_text, [path])
    path.write_bytes(b"good\nbad: \xff\n")
    for read in (lambda: list(file_documents([path], "line").read()),
                 lambda: list(read_text([path])[1])):  # fmt: skip
        assert refusal(read).startswith(f"{path} is not UTF-8: byte 10 is 0xff (invalid start")
    assert "--documents is 'page'; allowed: line, blank, file" in refusal(
        file_documents, [path], "page"
    )
    path = texts.write(tmp_path / "a.txt.gz", texts.VERSE)
    path.write_bytes(path.read_bytes()[:-9])
    assert "a.txt.gz cannot be read: Compressed file ended" in refusal(
        lambda: list(file_documents([path], "line").read())
    )
