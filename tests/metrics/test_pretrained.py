"""Pretrained models: a tiny one with random weights where torch and transformers are installed."""

import math
import sys

import numpy as np
import pytest

from dbjax.errors import SettingError
from dbjax.metrics.perplexity import Scorer
from dbjax.metrics.pretrained import LastTokenFeatures, PretrainedScorer
from dbjax.metrics.text_features import TextFeatures

# What torch and transformers warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")

WORDS = ("<end>", "a", "b", "c", "d")
TEXTS = ["a b c", "d", "c c c c a", "b a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT-2 of two layers that reads words, saved as models are."""
    pytest.importorskip("torch", reason="torch and transformers are not in the tested set")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    path = str(tmp_path_factory.mktemp("gpt2"))
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    reader = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<end>"))
    reader.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=reader, eos_token="<end>", unk_token="<end>"
    ).save_pretrained(path)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=8, n_embd=16, n_layer=2, n_head=2
    )
    transformers.set_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return path


def test_likelihoods_do_not_depend_on_the_batch(folder):
    scorer = PretrainedScorer(folder, max_length=8, batch_size=3)
    assert isinstance(scorer, Scorer)
    nats, counts = scorer.nll(TEXTS)
    # The first token is given.
    assert counts.tolist() == [2, 0, 4, 1]
    alone = [scorer.nll([text])[0][0] for text in TEXTS]
    np.testing.assert_allclose(nats, alone, rtol=1e-5, atol=1e-6)


def test_probabilities_of_the_next_token_sum_to_one(folder):
    scorer = PretrainedScorer(folder, max_length=8)
    before = scorer.nll(["a b"])[0][0]
    after = scorer.nll([f"a b {word}" for word in WORDS])[0]
    assert np.exp(before - after).sum() == pytest.approx(1, rel=1e-4)
    assert after.mean() - before == pytest.approx(math.log(len(WORDS)), rel=0.2)


def test_texts_are_cut_to_the_length_that_is_named(folder):
    scorer = PretrainedScorer(folder, max_length=3)
    assert scorer.name == f"{folder}, at most 3 tokens"
    found = scorer.nll(["c c c c a", "c c c"])
    assert found[1].tolist() == [2, 2]
    assert found[0][0] == pytest.approx(found[0][1], rel=1e-5)


def test_features_are_those_of_the_last_token(folder):
    features = LastTokenFeatures(folder, max_length=8, batch_size=3)
    assert isinstance(features, TextFeatures)
    found = features(TEXTS)
    assert found.shape == (4, 16)
    alone = np.concatenate([features([text]) for text in TEXTS])
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)
    assert features.name == f"{folder}, last of at most 8 tokens"


def test_a_length_that_the_model_cannot_read_is_refused(folder):
    with pytest.raises(SettingError, match="max_length is 9; allowed: 2 to 8"):
        PretrainedScorer(folder, max_length=9)


def test_a_folder_without_a_model_is_refused(folder, tmp_path):
    with pytest.raises(SettingError, match="is no folder of a model of transformers"):
        PretrainedScorer(str(tmp_path))


@pytest.mark.parametrize("package", ["torch", "transformers"])
@pytest.mark.parametrize("kind", [LastTokenFeatures, PretrainedScorer])
def test_without_the_packages_they_are_named(monkeypatch, kind, package):
    if package == "transformers":
        monkeypatch.setitem(sys.modules, "torch", sys)
    monkeypatch.setitem(sys.modules, package, None)
    message = f"a pretrained model needs the package '{package}'.*pip install {package}"
    with pytest.raises(SettingError, match=message):
        kind("gpt2")
    with pytest.raises(SettingError, match="batch_size is 0; allowed: 1 or more"):
        kind("gpt2", batch_size=0)
