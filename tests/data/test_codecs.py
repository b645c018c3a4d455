import json
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from dbjax.data import ByteCodec, CharacterCodec, TokenizerCodec, UnknownCharacter
from dbjax.data.codecs import encode_all, pieces, token_dtype
from dbjax.errors import SettingError
from tests.data import texts


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    return texts.write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file):
    return TokenizerCodec(tokenizer_file)


@hypothesis.given(st.text(min_size=1), st.randoms())
def test_characters_are_numbered_as_in_the_alphabet(text, random):
    alphabet = sorted(set(text))
    random.shuffle(alphabet)
    codec = CharacterCodec("".join(alphabet))
    ids = codec.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [alphabet.index(character) for character in text]
    assert codec.decode(ids) == text
    assert codec.vocabulary == len(alphabet)


@pytest.mark.parametrize(
    ("alphabet", "text", "message"),
    [
        ("abc", "abXc", "position 2 of the text is 'X' (U+0058); allowed: the characters 'abc'"),
        ("abc", "é", "position 0 of the text is 'é' (U+00E9); allowed: the characters 'abc'"),
        ("aé", "aéb", "position 2 of the text is 'b' (U+0062); allowed: the characters 'aé'"),
        ("aé", "a\U0001f600", "position 1 of the text is '😀' (U+1F600); allowed: the cha"),
        ("b", "a", "position 0 of the text is 'a' (U+0061)"),
        ("a", "\n", "position 0 of the text is '\\n' (U+000A)"),
        ("".join(map(chr, range(200, 400))), "a", "allowed: the 200 characters of the training"),
    ],
)
def test_unknown_characters_are_refused(alphabet, text, message):
    with pytest.raises(UnknownCharacter) as caught:
        CharacterCodec(alphabet).encode(text)
    assert message in str(caught.value)
    assert isinstance(caught.value, SettingError)


@pytest.mark.parametrize("alphabet", ["", "abca"])
def test_alphabets_have_each_character_once(alphabet):
    with pytest.raises(SettingError, match="one or more characters, each once"):
        CharacterCodec(alphabet)


@hypothesis.given(st.text())
def test_bytes_are_those_of_utf8(text):
    ids = ByteCodec().encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == list(text.encode())
    assert ByteCodec().decode(ids) == text


def test_bytes_that_are_not_utf8_are_decoded_nevertheless():
    assert ByteCodec().decode(np.array([0xFF, ord("a")])) == "�a"


@hypothesis.given(st.text())
def test_a_tokenizer_gives_text_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text


def test_a_tokenizer_does_what_the_library_does(tokenizer, tokenizer_file):
    import tokenizers

    library = tokenizers.Tokenizer.from_file(tokenizer_file)
    assert tokenizer.encode(texts.VERSE).tolist() == library.encode(texts.VERSE).ids
    assert tokenizer.vocabulary == library.get_vocab_size() == 300
    assert tokenizer.token("</s>") == 0
    assert tokenizer.token("<pad>") is None


def test_the_name_of_a_special_token_in_a_text_is_text(tokenizer):
    assert tokenizer.decode(np.array([0])) == "</s>"
    assert 0 not in tokenizer.encode("a</s>b")
    assert tokenizer.decode(tokenizer.encode("a</s>b")) == "a</s>b"


def test_what_a_file_says_of_padding_and_cutting_is_not_done(tokenizer_file, tmp_path):
    import tokenizers

    library = tokenizers.Tokenizer.from_file(tokenizer_file)
    library.enable_truncation(3)
    library.enable_padding(length=50)
    library.save(str(tmp_path / "tokenizer.json"))
    codec = TokenizerCodec(str(tmp_path / "tokenizer.json"))
    assert codec.decode(codec.encode(texts.VERSE)) == texts.VERSE
    assert len(codec.encode("a")) == 1


def test_ids_may_have_gaps(tokenizer_file, tmp_path):
    values = json.loads(Path(tokenizer_file).read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 400, "content": "<gap>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    codec = TokenizerCodec(str(tmp_path / "tokenizer.json"))
    assert codec.vocabulary == max(codec._tokenizer.get_vocab().values()) + 1


@pytest.mark.parametrize("name", ["bytes", "tokenizer"])
def test_lone_surrogates_are_refused(name, tokenizer):
    codec = ByteCodec() if name == "bytes" else tokenizer
    for encode in (codec.encode, lambda text: encode_all(codec, [text])):
        with pytest.raises(UnknownCharacter, match=r"position 1 of the text is '\\ud800' \(U\+D8"):
            encode("a\ud800")


@pytest.mark.parametrize("name", ["characters", "bytes", "tokenizer"])
def test_ids_outside_the_vocabulary_are_refused(name, tokenizer):
    codec = {"characters": CharacterCodec("ab"), "bytes": ByteCodec(), "tokenizer": tokenizer}[name]
    last = codec.vocabulary - 1
    for wrong in (-1, codec.vocabulary):
        with pytest.raises(SettingError, match=f"a token is {wrong}; allowed: 0 to {last}"):
            codec.decode(np.array([0, wrong]))
    assert codec.decode(np.array([], np.int32)) == ""


def test_many_texts_are_encoded_as_one_by_one(tokenizer):
    lines = [*texts.VERSE.splitlines(), ""]
    for codec in (tokenizer, ByteCodec()):
        found = encode_all(codec, lines)
        assert [ids.tolist() for ids in found] == [codec.encode(line).tolist() for line in lines]


def test_pieces_leave_the_tokens_as_they_are(tokenizer, monkeypatch):
    monkeypatch.setattr("dbjax.data.codecs._PIECE", 50)
    text = texts.VERSE + "\n\n   indented\t\t" + "x" * 120 + " end\n"
    cuts = list(pieces(text))
    assert "".join(text[start:stop] for start, stop in cuts) == text
    assert max(stop - start for start, stop in cuts) <= 50
    whole = tokenizer.encode(text[: -len("x" * 120 + " end\n")])
    parts = [tokenizer.encode(text[a:b]) for a, b in pieces(text[: -len("x" * 120 + " end\n")])]
    assert np.concatenate(parts).tolist() == whole.tolist()
    assert list(pieces("")) == []


def test_the_smallest_dtype():
    for vocabulary, dtype in ((2, "u1"), (256, "u1"), (257, "u2"), (65536, "u2"), (65537, "u4")):
        assert token_dtype(vocabulary) == np.dtype(dtype)


def test_codecs_that_differ_have_other_identities(tokenizer):
    codecs = [CharacterCodec("ab"), CharacterCodec("ba"), ByteCodec(), tokenizer]
    assert len({codec.identity for codec in codecs}) == 4
    assert [codec.name for codec in codecs[1:]] == ["characters", "bytes", tokenizer.file]


def test_tokenizers_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(SettingError, match=r"a\.json' cannot be read: No such file"):
        TokenizerCodec(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('{"model": 3}')
    with pytest.raises(SettingError, match=r"a\.json' cannot be read: .*; allowed: a tokenizer"):
        TokenizerCodec(str(tmp_path / "a.json"))


def test_without_the_library_the_refusal_says_how_to_get_it(tokenizer_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(SettingError, match=r"is not installed.*pip install 'dbjax\[text"):
        TokenizerCodec(tokenizer_file)
