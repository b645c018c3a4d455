"""Evaluates a model that writes text: its likelihood of the test split, and texts of its own."""

import dataclasses
import functools
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int
from tqdm.auto import tqdm

from dbjax import keys, session
from dbjax.autoregressive import AutoregressiveTask, NextTokenTask, RecurrentTask
from dbjax.build import Setup
from dbjax.data import Dataset, TextConfig, TextInfo, load_text
from dbjax.families.masked_lm import MaskedTask
from dbjax.generation import Generator
from dbjax.masked_text import revealing
from dbjax.metrics import NgramScorer, TfidfFeatures, generative_perplexity, mauve_score
from dbjax.metrics.likelihood import evidence_bound, next_token_entropy, walk_bound
from dbjax.metrics.text import bits_per_character, bits_per_token, unigram_entropy
from dbjax.refined_text import refining
from dbjax.sampling import Sampler
from experiments.sample_text import write_on, write_texts

NUM_TEXTS = 64
"""Texts that are sampled unasked."""
MAUVE_TEXTS = 500
"""With fewer, MAUVE is noise."""
MASKED = 4000
"""Texts that a bound is averaged over, at the least: each of few is masked several times."""
LEVELS = 1000
"""Texts that the bound of a walk is averaged over for each block, at the least."""
FITTED = 10_000
"""Training sequences, spread over the text, that proxies and the unigram entropy are fitted to."""
REFINED = 160
"""Tokens of which the steps to them are kept."""
SHOWN = 4
"""Texts that are kept to be shown, sampled and real."""

Tokens = Int[np.ndarray, "size length"]


class Likelihood(Protocol):
    """How likely a model finds texts.

    Returns a dict with "nats_per_token", its "standard_error" over texts, "num_tokens", what that
    "likelihood" is ("exact" or "upper bound"), and what else there is to say.
    """

    def __call__(
        self,
        task: Any,
        model: session.Model,
        tokens: Tokens,
        vocabulary: int,
        progress: Callable[[int], object],
    ) -> dict[str, Any]: ...


def masked_likelihood(
    task: MaskedTask,
    model: session.Model,
    tokens: Tokens,
    vocabulary: int,
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """The evidence bound, and what each block adds to it."""
    looks = -(-MASKED // len(tokens))
    found = evidence_bound(task, model.blocks, tokens, vocabulary, looks=looks, progress=progress)
    return {"likelihood": "upper bound", **found}


def autoregressive_likelihood(
    task: AutoregressiveTask | NextTokenTask,
    model: session.Model,
    tokens: Tokens,
    vocabulary: int,
    progress: Callable[[int], object],
) -> dict[str, Any]:
    """Cross entropy of the next token; of what denoises, at pure noise, by the noisiest block.

    And then, as "walk", the bound for all its blocks.
    """
    del vocabulary
    found = next_token_entropy(task, model.blocks, tokens, progress=progress)
    if isinstance(task, NextTokenTask):
        return {"likelihood": "exact", **found}
    words = "at pure noise"
    if task.partition.num_blocks > 1:
        words = f"of the noisiest block, {words}"
    looks = -(-LEVELS // len(tokens))
    walk = walk_bound(task, model.blocks, tokens, looks=looks, progress=progress)
    return {"likelihood": words, **found, "walk": walk}


LIKELIHOODS: Mapping[type, Likelihood] = {
    MaskedTask: masked_likelihood,
    AutoregressiveTask: autoregressive_likelihood,
    RecurrentTask: autoregressive_likelihood,
    NextTokenTask: autoregressive_likelihood,
}
"""By the type of a task."""


def text_quality(setup: Setup, model: session.Model, count: int, path: Path) -> dict[str, Any]:
    """Likelihood of all test texts, and measures of `count` sampled ones."""
    codec = setup.dataset.info.codec
    test = load_text(dataclasses.replace(setup.data, split="test")).source
    real = test.read(np.arange(len(test)))["tokens"]
    fitted = _apart(setup.dataset, setup.data)
    with tqdm(desc=f"likelihood {path.name}", unit="text") as bar:
        found = LIKELIHOODS[type(setup.task)](
            setup.task, model, real, setup.dataset.info.vocabulary, bar.update
        )
    texts = _decode(codec, real)
    characters = sum(map(len, texts)) / real.size
    nats, unigram = found["nats_per_token"], unigram_entropy(fitted, codec.vocabulary)
    sampled, seconds = _sample(setup, model, count, path)
    if not isinstance(setup.task, MaskedTask):
        # Each token has passes of its own.
        per_token = Generator(setup.task, setup.sampling).layer_evaluations
        found["layer_evaluations_per_sample"] = per_token * setup.dataset.info.length
    written = write_texts(codec, sampled, path / "samples", "samples")
    (path / "samples" / "shown.json").write_text(
        json.dumps(
            {
                "samples": written[:SHOWN],
                "real": texts[:SHOWN],
                "revealing": _revealing(setup, model),
                "refining": _refining(setup, model, sampled[0]),
            }
        )
    )
    return {
        "num_samples": count,
        **found,
        "bits_per_token": bits_per_token(nats),
        "bits_per_character": bits_per_character(nats, characters),
        "characters_per_token": characters,
        "unigram_nats_per_token": unigram,
        "unigram_bits_per_character": bits_per_character(unigram, characters),
        "samples_per_second": count / seconds,
        **_measures(setup, (written, sampled), (texts, real), _decode(codec, fitted)),
    }


def _apart(dataset: Dataset[TextInfo], data: TextConfig) -> Tokens:
    """Training sequences that do not overlap, spread over the text."""
    step = -(-data.length // (data.stride or data.length))
    index = np.arange(0, len(dataset.source), step)
    chosen = np.linspace(0, len(index) - 1, min(FITTED, len(index))).round().astype(int)
    return dataset.source.read(index[chosen])["tokens"]


def _sample(setup: Setup, model: session.Model, count: int, path: Path) -> tuple[Tokens, float]:
    """Texts, and the seconds they took."""
    with tqdm(total=count, desc=f"sample {path.name}", unit="text") as bar:
        write: Callable[..., Tokens]
        if isinstance(setup.task, MaskedTask):
            sampler = Sampler(setup.task, setup.sampling)
            write = functools.partial(model.sample, sampler=sampler)
        else:
            write = functools.partial(write_on, Generator(setup.task, setup.sampling), model)
        # Once unseen, so that the speed does not contain compilation.
        write(min(setup.sampling.batch_size, count))
        start = time.perf_counter()
        tokens = write(count, progress=bar.update)
        return tokens, time.perf_counter() - start


def _revealing(setup: Setup, model: session.Model) -> dict[str, Any] | None:
    """How one text came to be, of tasks that reveal masked tokens."""
    if not isinstance(setup.task, MaskedTask):
        return None
    sampler = Sampler(setup.task, setup.sampling)
    walk = model.walk(1, sampler=sampler)
    return dataclasses.asdict(revealing(setup.dataset.info.codec, walk, sampler.grid))


def _refining(setup: Setup, model: session.Model, tokens: Tokens) -> dict[str, Any] | None:
    """What each step takes the tokens of a text for, of autoregressive blocks."""
    # Slots of a recurrent model look at each other, so they cannot be sought all at once.
    if type(setup.task) is not AutoregressiveTask:
        return None
    codec, key = setup.dataset.info.codec, keys.derive(0, "refining")
    found = refining(
        setup.task, model.blocks, setup.sampling, codec, tokens, key=key, count=REFINED
    )
    return dataclasses.asdict(found)


def _measures(
    setup: Setup,
    sampled: tuple[Sequence[str], Tokens],
    real: tuple[Sequence[str], Tokens],
    fitted: Sequence[str],
) -> dict[str, Any]:
    """Diversity and perplexity by a proxy, beside those of as many real texts; MAUVE of many."""
    size = min(len(sampled[0]), len(real[0]))
    order = min(5, max(map(len, fitted)))
    scorer = NgramScorer(fitted, order=order)
    measured = {
        name: dataclasses.asdict(
            generative_perplexity(texts[:most], tokens[:most], scorer, decoding=decoding)
        )
        for name, (texts, tokens), most, decoding in (
            ("generated", sampled, None, _decoding(setup)),
            ("real", real, size, "none: the test split"),
        )
    }
    reason = None
    if size < MAUVE_TEXTS:
        reason = f"{size} texts on each side; it takes {MAUVE_TEXTS}"
    elif importlib.util.find_spec("mauve") is None:
        reason = "mauve-text is not installed"
    if reason is not None:
        return {**measured, "mauve": None, "mauve_left_out": reason}
    score = mauve_score(real[0][:size], sampled[0][:size], TfidfFeatures(fitted))
    return {**measured, "mauve": dataclasses.asdict(score)}


def _decoding(setup: Setup) -> str:
    """How texts are sampled, in words."""
    settings = setup.config.sampling.to_dict()
    return ", ".join(f"{name} {value}" for name, value in settings.items() if name != "batch_size")


def _decode(codec: Any, tokens: Tokens) -> list[str]:
    return [codec.decode(ids) for ids in tokens]
