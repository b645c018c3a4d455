"""Features and likelihoods of texts by a pretrained model, through `transformers` and `torch`.

Both packages are imported on use. A model is a local folder, as `save_pretrained` writes it, which
needs no network; or a name that `transformers` looks up in its cache and on the Hugging Face hub.
All computing is in float32, whatever the weights are stored as.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from dbjax.errors import SettingError, require
from dbjax.metrics.text_requirements import require_texts
from dbjax.packages import optional_package


class LastTokenFeatures:
    """Hidden state of the last token after the last layer: what MAUVE is published with.

    Pillutla et al. 2021 (arXiv 2102.01454), section 3; there with GPT-2 large.

    Attributes:
        name: "<model>, last of at most <max_length> tokens".
    """

    def __init__(
        self, model: str, *, max_length: int = 1024, batch_size: int = 8, device: str = "cpu"
    ) -> None:
        """Loads the model.

        Args:
            model: folder or name.
            max_length: of a text, in the model's tokens; what follows is cut off.
            batch_size: texts read together.
            device: of torch, such as "cuda".

        Raises:
            SettingError: a package or the model is missing, or `max_length` is out of its range.
        """
        self._model = _Model(model, "AutoModel", max_length, batch_size, device)
        self.name = f"{model}, last of at most {max_length} tokens"

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """Returns one hidden state for each text.

        Raises:
            SettingError: a text is empty.
        """
        parts = []
        for tokens, lengths, output in self._model.batches(texts):
            last = list(range(len(tokens))), (lengths - 1).tolist()
            parts.append(output.last_hidden_state[last].cpu().numpy())
        return np.concatenate(parts)


class PretrainedScorer:
    """Likelihood of texts under a causal language model such as GPT-2 or Llama.

    The first token of a text is given, not predicted. Tokenizers that begin texts with a token of
    their own (Llama's do, GPT-2's does not) so have all tokens of the text scored.

    Attributes:
        name: "<model>, at most <max_length> tokens".
    """

    def __init__(
        self, model: str, *, max_length: int = 1024, batch_size: int = 8, device: str = "cpu"
    ) -> None:
        """Loads the model; arguments and errors are those of `LastTokenFeatures`."""
        self._model = _Model(model, "AutoModelForCausalLM", max_length, batch_size, device)
        self.name = f"{model}, at most {max_length} tokens"

    def nll(
        self, texts: Sequence[str]
    ) -> tuple[Float[np.ndarray, " texts"], Int[np.ndarray, " texts"]]:
        """Returns of each text the negative log-likelihood, in nats, and its tokens but the first.

        Raises:
            SettingError: a text is empty.
        """
        nats, counts = [], []
        for tokens, lengths, output in self._model.batches(texts):
            likelihoods = output.logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])
            losses = -likelihoods[:, :, 0].cpu().numpy().astype(np.float64)
            scored = np.arange(losses.shape[1]) < lengths[:, np.newaxis] - 1
            nats.append(np.where(scored, losses, 0.0).sum(axis=1))
            counts.append(scored.sum(axis=1))
        return np.concatenate(nats), np.concatenate(counts)


class _Model:
    """A model with its tokenizer."""

    def __init__(
        self,
        name: str,
        kind: Literal["AutoModel", "AutoModelForCausalLM"],
        max_length: int,
        batch_size: int,
        device: str,
    ) -> None:
        require(batch_size >= 1, "batch_size", batch_size, "1 or more")
        self._torch = optional_package("torch", "a pretrained model", "torch")
        package = optional_package("transformers", "a pretrained model", "transformers")
        try:
            # Padding must follow a text, for what comes before a token changes its hidden state.
            self._tokenizer = package.AutoTokenizer.from_pretrained(name, padding_side="right")
            model = getattr(package, kind).from_pretrained(name)
        except (OSError, ValueError) as error:
            raise SettingError(
                f"{name!r} is no folder of a model of transformers, nor a model that it can fetch"
            ) from error
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        most = getattr(model.config, "max_position_embeddings", max_length)
        require(2 <= max_length <= most, "max_length", max_length, f"2 to {most} for {name}")
        self._max_length = max_length
        self._batch_size = batch_size
        self._device = device
        self._model = model.float().to(device).eval()

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[Any, Int[np.ndarray, " texts"], Any]]:
        """Yields tokens [texts, length], how many of each row are the text's, and the output."""
        require_texts(texts, "texts")
        for start in range(0, len(texts), self._batch_size):
            inputs = self._tokenizer(
                list(texts[start : start + self._batch_size]),
                padding=True,
                truncation=True,
                max_length=self._max_length,
                return_tensors="pt",
            ).to(self._device)
            with self._torch.inference_mode():
                output = self._model(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
                )
            lengths = inputs["attention_mask"].sum(dim=1).cpu().numpy()
            yield inputs["input_ids"], lengths, output
