import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dbjax.build import build, default_config
from dbjax.catalogue import FAMILIES, Family
from dbjax.data import DataConfig, TextConfig, TextSource, load_dataset, make_stream
from dbjax.data.registry import describe_dataset
from dbjax.errors import SettingError
from dbjax.families.mlp import MLPConfig
from tests.data import texts


def everything(config):
    """All sequences of a split."""
    dataset = load_dataset(config)
    assert len(dataset.source) == dataset.info.size
    batch = dataset.source.read(np.arange(dataset.info.size))
    assert list(batch) == ["tokens"]
    assert batch["tokens"].dtype == np.int32
    assert batch["tokens"].shape == (dataset.info.size, config.length)
    return batch["tokens"]


def as_text(config):
    codec = load_dataset(config).info.codec
    return [codec.decode(row) for row in everything(config)]


def windows(text, length, stride):
    """What sequences are, said again."""
    return [text[a : a + length] for a in range(0, len(text) - length + 1, stride)]


def refusal(**settings):
    with pytest.raises(SettingError) as caught:
        load_dataset(TextConfig(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@hypothesis.given(st.data())
def test_sequences_are_cut_out_of_tokens_wherever_these_lie(data):
    tokens = np.arange(data.draw(st.integers(1, 60)), dtype=np.uint16)
    length = data.draw(st.integers(1, len(tokens)))
    stride = data.draw(st.integers(1, length))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=4)))
    source = TextSource(np.split(tokens, cuts), length=length, stride=stride)
    expected = windows(tokens.tolist(), length, stride)
    assert len(source) == len(expected)
    order = data.draw(st.permutations(range(len(expected))))
    read = source.read(np.array(order))["tokens"]
    assert read.tolist() == [expected[i] for i in order]


def test_reading_gives_copies():
    source = load_dataset(TextConfig()).source
    before = source[3]["tokens"].copy()
    source.read(np.array([3]))["tokens"][:] = 99
    np.testing.assert_array_equal(source[3]["tokens"], before)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", texts.WRITE)
@pytest.mark.parametrize("tokenizer", ["characters", "bytes", "tokenizer.json"])
def test_one_file_is_split_by_position(tokenizer, suffix, tmp_path):
    if tokenizer.endswith("json"):
        tokenizer = texts.write_tokenizer(tmp_path / tokenizer)
    text = texts.VERSE * 20
    path = texts.write(tmp_path / f"verse.txt{suffix}", text)
    n = len(text)
    parts = {"train": (0, 90), "validation": (90, 95), "test": (95, 100)}
    for split, (start, stop) in parts.items():
        config = TextConfig("files", str(path), tokenizer, length=8, split=split)
        found, expected = "".join(as_text(config)), text[n * start // 100 : n * stop // 100]
        assert expected.startswith(found)
        assert len(everything(config)) == len(load_dataset(config).info.codec.encode(expected)) // 8


@pytest.mark.parametrize("stride", [None, 1, 5, 8])
def test_strides_are_for_training_only(stride, tmp_path):
    path = str(texts.write(tmp_path / "a.txt", texts.VERSE))
    n = len(texts.VERSE)
    for split, text in (
        ("train", texts.VERSE[: n * 90 // 100]),
        ("validation", texts.VERSE[n * 90 // 100 : n * 95 // 100]),
    ):
        config = TextConfig("files", path, length=8, stride=stride, split=split)
        assert as_text(config) == windows(text, 8, (split == "train" and stride) or 8)


def test_a_folder_has_a_file_or_several_for_each_split(tmp_path):
    texts.write(tmp_path / "train-0.txt", "abcab")
    texts.write(tmp_path / "train-1.txt.gz", "cabc")
    texts.write(tmp_path / "validation.txt.xz", "ccbb")
    texts.write(tmp_path / "test.txt", "aaaab")
    texts.write(tmp_path / "notes.txt", "xyz")
    found = {s: as_text(TextConfig("files", str(tmp_path), length=2, split=s)) for s in
             ("train", "validation", "test")}  # fmt: skip
    assert found["train"] == ["ab", "ca", "bc", "ab"]
    assert found["validation"] == ["cc", "bb"]
    assert found["test"] == ["aa", "aa"]
    assert load_dataset(TextConfig("files", str(tmp_path), length=2)).info.codec.alphabet == "abc"
    (tmp_path / "test.txt").unlink()
    message = refusal(name="files", data_dir=str(tmp_path), split="test", length=2)
    assert "a folder without the file test.txt; allowed: one with test*.txt" in message


def test_characters_that_training_lacks_are_refused_with_their_place(tmp_path):
    texts.write(tmp_path / "train.txt", "abc\n" * 9)
    texts.write(tmp_path / "validation-0.txt", "abc\n" * 9)
    texts.write(tmp_path / "validation-1.txt", "abc\n\nab!c")
    settings = {"data_dir": str(tmp_path), "split": "validation", "length": 2}
    message = refusal(name="files", **settings)
    place = f"line 3, column 3 of {tmp_path / 'validation-1.txt'} is '!' (U+0021)"
    assert message == f"{place}; allowed: the characters '\\nabc'"

    texts.write(tmp_path / "one.txt", "abc\n" * 240 + "éabc\n" + "abc\n" * 14)
    message = refusal(**{**settings, "name": "files", "data_dir": str(tmp_path / "one.txt")})
    assert message.startswith(f"line 241, column 1 of {tmp_path / 'one.txt'} is 'é' (U+00E9)")
    config = TextConfig("files", str(tmp_path / "one.txt"), "bytes", length=2, split="validation")
    assert "é" in "".join(as_text(config))


def test_long_texts_are_encoded_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("dbjax.data.codecs._PIECE", 7)
    path = texts.write(tmp_path / "a.txt", texts.VERSE + "é\n" * 40)
    for tokenizer in ("characters", "bytes"):
        config = TextConfig("files", str(path), tokenizer, length=1)
        whole = texts.VERSE + "é\n" * 40
        expected = whole[: len(whole) * 90 // 100]
        tokens = everything(config)[:, 0]
        assert load_dataset(config).info.codec.decode(tokens) == expected
    texts.write(path, texts.VERSE * 3 + "é")
    message = refusal(name="files", data_dir=str(path), split="test", length=1)
    assert message.startswith(f"line 28, column 1 of {path} is 'é'")


def test_broken_files_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good text\n\xffbad")
    settings = {"name": "files", "data_dir": str(path)}
    assert f"{path} is not UTF-8: byte 10 is 0xff (invalid start byte)" in refusal(**settings)
    path.write_bytes(b"")
    assert refusal(**settings) == f"{path} is empty; allowed: a file with text"
    texts.write(path, "abc" * 20)
    message = f"the test text of {path} has 3 tokens; allowed: at least data.length, which is 256"
    assert refusal(**settings, split="test") == message
    path.unlink()
    assert "there is nothing at this place" in refusal(**settings)
    for suffix in (".gz", ".xz"):
        path = texts.write(tmp_path / f"b.txt{suffix}", texts.VERSE)
        path.write_bytes(path.read_bytes()[:-9])
        message = refusal(name="files", data_dir=str(path))
        assert message.startswith(f"{path} cannot be read: Compressed file ended")
        path.write_bytes(b"no such format")
        assert f"{path} cannot be read: " in refusal(name="files", data_dir=str(path))
    assert "data.data_dir is None; allowed: a text file" in refusal(name="files")


# --- text8 ----------------------------------------------------------------------------------------


@pytest.fixture
def text8(tmp_path, monkeypatch):
    monkeypatch.setattr("dbjax.data.corpora.TEXT8_SIZE", 2000)
    text = ("the quick brown fox jumps over a lazy dog " * 50)[:2000]
    return tmp_path, text


@pytest.mark.parametrize("name", ["text8", "text8.gz", "text8.xz", "text8.zip"])
@pytest.mark.parametrize("folder", [True, False])
def test_text8_has_the_ids_and_splits_of_the_literature(name, folder, text8):
    path, text = text8
    if name.endswith("zip"):
        import zipfile

        with zipfile.ZipFile(path / name, "w") as archive:
            archive.writestr("text8", text)
    else:
        texts.write(path / name, text)
    place = str(path if folder else path / name)
    ids = ["abcdefghijklmnopqrstuvwxyz ".index(character) for character in text]
    for split, start, stop in (
        ("train", 0, 1800),
        ("validation", 1800, 1900),
        ("test", 1900, 2000),
    ):
        config = TextConfig("text8", place, length=16, stride=1, split=split)
        stride = 1 if split == "train" else 16
        assert everything(config).tolist() == windows(ids[start:stop], 16, stride)
        assert load_dataset(config).info.vocabulary == 27


def test_other_text_than_text8_is_refused(text8):
    path, text = text8
    texts.write(path / "text8", text[:-1])
    message = refusal(name="text8", data_dir=str(path))
    assert message.startswith(f"{path / 'text8'} has 1,999 characters; allowed: the 2,000 of text8")
    texts.write(path / "text8", text[:7] + "X" + text[8:])
    message = refusal(name="text8", data_dir=str(path))
    assert message.startswith(f"line 1, column 8 of {path / 'text8'} is 'X' (U+0058)")
    (path / "text8").unlink()
    assert "the folder of one of the files text8, text8.zip" in refusal(
        name="text8", data_dir=str(path)
    )
    assert "http://mattmahoney.net/dc/text8.zip" in refusal(name="text8")
    (path / "text8.zip").write_bytes(b"none")
    assert "text8.zip cannot be read: File is not a zip" in refusal(
        name="text8", data_dir=str(path / "text8.zip")
    )


# --- the documentation of Python ------------------------------------------------------------------


def test_docs_are_dealt_by_topic_and_share_no_paragraph():
    info = load_dataset(TextConfig()).info
    assert info.vocabulary == 96
    assert info.codec.alphabet == "\n" + "".join(map(chr, range(32, 127)))
    splits = {
        split: info.codec.decode(everything(TextConfig(length=1, split=split))[:, 0])
        for split in ("train", "validation", "test")
    }
    sizes = {split: len(text) for split, text in splits.items()}
    total = sum(sizes.values())
    assert total > 300_000
    assert 0.85 < sizes["train"] / total < 0.95
    assert min(sizes.values()) > 0.03 * total
    paragraphs = {
        split: {p for p in text.split("\n\n") if len(p) >= 80} for split, text in splits.items()
    }
    assert all(len(found) > 20 for found in paragraphs.values())
    assert not paragraphs["train"] & (paragraphs["validation"] | paragraphs["test"])
    assert not paragraphs["validation"] & paragraphs["test"]


def test_docs_are_the_topics_with_other_characters_replaced():
    from dbjax.data.corpora import _docs_topics

    text = "It’s “x” — 3…4 – 5° ß é " + "x" * 80
    topics = {"b": f"{text}\n\nbrief", "a": f"brief\n\n{text}\n\n{text}\n"}
    plain = 'It\'s "x" - 3...4 - 5 deg ss ? ' + "x" * 80
    assert dict(_docs_topics(topics)) == {"a": f"brief\n\n{plain}", "b": "brief"}


# --- facts ----------------------------------------------------------------------------------------


def test_the_fingerprint_covers_what_sequences_are(tmp_path):
    text = texts.VERSE * 19
    path = str(texts.write(tmp_path / "a.txt", text))
    texts.write(tmp_path / "b.txt", text.replace("Tyger", "Tiger"))
    config = {"name": "files", "data_dir": path, "length": 8}
    changes = [
        {},
        {"data_dir": str(tmp_path / "b.txt")},
        {"tokenizer": "bytes"},
        {"length": 16},
        {"stride": 1},
        {"split": "test"},
        {"split": "validation"},
    ]
    found = [load_dataset(TextConfig(**{**config, **each})).info.fingerprint for each in changes]
    assert len(set(found)) == len(changes)
    texts.write(tmp_path / "elsewhere.txt.gz", text)
    same = [{"data_dir": str(tmp_path / "elsewhere.txt.gz")}, {"stride": 8}, {"batch_size": 3}]
    for each in same:
        assert load_dataset(TextConfig(**{**config, **each})).info.fingerprint == found[0]


def test_facts_are_known_without_files_where_they_can_be(tmp_path):
    tokenizer = texts.write_tokenizer(tmp_path / "tokenizer.json")
    for name, given, vocabulary in (
        ("text8", "characters", 27),
        ("text8", "bytes", 256),
        ("files", "bytes", 256),
        ("files", tokenizer, 300),
    ):
        found = describe_dataset(TextConfig(name, None, given, length=7))
        assert found.dtype == np.int32
        assert (found.info.name, found.info.vocabulary, found.info.length) == (name, vocabulary, 7)
        assert (found.info.size, found.info.fingerprint) == (0, "")
    texts.write(tmp_path / "a.txt", texts.VERSE)
    for config in (TextConfig(), TextConfig("files", str(tmp_path / "a.txt"), length=4)):
        assert describe_dataset(config).info == load_dataset(config).info
    with pytest.raises(SettingError, match=r"data\.data_dir is None"):
        describe_dataset(TextConfig("files"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "enwik8"}, "data.name is 'enwik8'; allowed: docs, text8, files, tokens"),
        ({"tokenizer": "words"}, "data.tokenizer is 'words'; allowed: characters, bytes, or the p"),
        ({"name": "tokens", "tokenizer": "bytes"}, "data.tokenizer is 'bytes'; allowed: to leave"),
        ({"length": 0}, "data.length is 0; allowed: 1 or more"),
        ({"stride": 0}, "data.stride is 0; allowed: None, or 1 to 256, which is data.length"),
        ({"stride": 257}, "data.stride is 257; allowed: None, or 1 to 256"),
        ({"batch_size": 0}, "data.batch_size is 0; allowed: 1 or more"),
        ({"split": "all"}, "data.split is 'all'; allowed: train, validation, test"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SettingError) as caught:
        TextConfig(**settings)
    assert str(caught.value).startswith(message)


def test_a_tokenizer_that_is_missing_is_refused(tmp_path):
    message = refusal(tokenizer=str(tmp_path / "tokenizer.json"))
    assert "tokenizer.json' cannot be read: No such file or directory" in message


def test_a_family_may_have_text_as_its_data(monkeypatch):
    given = []

    def task(settings, info):
        given.append((settings.data, info))
        return FAMILIES["mlp"].task(settings, load_dataset(DataConfig("spiral")).info)

    family = Family(MLPConfig, task, {"data": TextConfig})
    monkeypatch.setitem(FAMILIES, "text", family)
    config = default_config("text")
    config.data.length = 16
    setup = build(config)
    expected = TextConfig(length=16)
    assert setup.data == expected
    assert given == [(expected, load_dataset(expected).info)]
    batch = make_stream(setup.dataset, setup.data, seed=0, block=0).take(2)
    assert batch["tokens"].shape == (2, 128, 16)
    config.data.name = "cifar10"
    with pytest.raises(SettingError, match=r"data\.name is 'cifar10'; allowed: docs, text8, files"):
        build(config)


# --- streams --------------------------------------------------------------------------------------


def stream(config, seed=0, block=0):
    return make_stream(load_dataset(config), config, seed=seed, block=block)


@pytest.mark.parametrize("listed", [True, False])
def test_a_restored_stream_continues_exactly(listed, monkeypatch):
    if not listed:
        monkeypatch.setattr("dbjax.data.stream._MOST_LISTED", 100)
    config = TextConfig(length=32, stride=1, batch_size=16)
    original = stream(config)
    original.take(5)
    saved = original.state()
    expected = [next(original)["tokens"] for _ in range(5)]
    fresh = stream(config)
    fresh.restore(saved)
    for tokens in expected:
        np.testing.assert_array_equal(next(fresh)["tokens"], tokens)
    with pytest.raises(SettingError, match="fingerprint of the saved data stream"):
        stream(TextConfig(length=32, stride=2, batch_size=16)).restore(saved)


@pytest.mark.parametrize("listed", [True, False])
def test_every_epoch_takes_each_sequence_once_in_a_new_order(listed, monkeypatch, tmp_path):
    if not listed:
        monkeypatch.setattr("dbjax.data.stream._MOST_LISTED", 10)
    path = texts.write(tmp_path / "a.txt", "".join(map(chr, range(0x100, 0x100 + 110))))
    config = TextConfig("files", str(path), length=2, stride=1, batch_size=49)
    size = load_dataset(config).info.size
    assert size == 98
    epochs = [
        [int(row[0]) for batch in stream(config, *who).take(4)["tokens"] for row in batch]
        for who in ((0, 0), (0, 1), (1, 0))
    ]
    orders = [tuple(seen[start : start + size]) for seen in epochs for start in (0, size)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len(set(orders)) == len(orders)
