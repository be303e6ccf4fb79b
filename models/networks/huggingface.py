"""Hugging Face encoders: networks built from the text of a ``config.json``, which read tokens
alone.

The options contain everything that builds the network, ``config`` among them, so its weights can be
loaded after the folder is gone. This module asks no hub, runs no code of a folder, and reads no
pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from attar.models.generation import Vocabulary
from attar.pipeline.core.errors import StageError, suggest_name

MODEL_OPTIONS = {"attn_implementation": "eager", "dtype": torch.float32}
"""Attention as products and a softmax, which exporters support; float32, whatever dtype the folder
stores."""


def classifier(config: str, classes: int = 0) -> nn.Module:
    """Return a network that gives logits ``[B, classes]``. With ``classes``, a fresh linear head
    reads the mean of the tokens' states; otherwise the folder's own head is used.

    Raises StageError if transformers has no such model for the configuration.
    """
    return FreshClassifier(config, classes) if classes else LabelledClassifier(config)


def encoder(config: str, normalize: bool = True) -> nn.Module:
    """Return a network that gives embeddings ``[B, hidden]``: the mean of the tokens' states
    without padding (Reimers and Gurevych 2019, arXiv:1908.10084).

    ``normalize`` divides them by their L2 norm.
    """
    return Encoder(config, normalize)


class Pretrained(nn.Module):
    """A model of transformers that reads int64 tokens ``[B, S]`` and masks the configuration's
    padding."""

    auto = "AutoModel"
    """The class of transformers that selects the model."""
    fresh = False
    """Whether some weights are in no folder, and random until they are trained."""

    def __init__(self, config: str) -> None:
        super().__init__()
        model = self.build_model(parse_config(config))
        if getattr(model, "pooler", None) is not None:
            # what it makes of the first token is not read, so it would be weights without a use
            model.pooler = None
        self.model: Any = model
        self.pad = find_padding(model.config)

    @property
    def labels(self) -> list[str] | None:
        """The class names of the folder's own head, or None if it has no head."""
        return None

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens that it generates, or None if it generates none."""
        return None

    @property
    def limits(self) -> tuple[int, int | None]:
        """The size of the vocabulary, and the maximum number of tokens in a row; None if there is
        no maximum."""
        config = self.model.config
        most: int | None = getattr(config, "max_position_embeddings", None)
        offsets = [
            module.padding_idx + 1  # as RoBERTa, which counts places from behind its padding's
            for name, module in self.model.named_modules()
            if name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ]
        return config.vocab_size, None if most is None else most - max(offsets, default=0)

    def build_model(self, config: Any) -> Any:
        try:
            return getattr(import_transformers(), self.auto).from_config(
                config, trust_remote_code=False, **MODEL_OPTIONS
            )
        except ValueError as error:
            raise StageError(
                f"transformers has no {self.auto} for a {config.model_type}: {error}"
            ) from error

    def fill(self, folder: Path) -> None:
        """Load the folder's weights. Raises StageError if some of the model's weights are
        missing."""
        with report_reading_errors(folder), silence_transformers():
            loaded, report = type(self.model).from_pretrained(
                folder,
                config=self.model.config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **MODEL_OPTIONS,
            )
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            shown = ", ".join(missing[:5]) + more
            raise StageError(
                f"{folder} has no weights for {shown}; where these are its head, give the task's "
                "number of classes for a fresh one (options = { classes = ... }) and fine_tune = "
                "true"
            )
        if getattr(loaded, "pooler", None) is not None:
            loaded.pooler = self.model.pooler
        self.model.load_state_dict(loaded.state_dict())

    def mask(self, tokens: Tensor) -> Tensor:
        """Return (B, S), 1 for tokens that are read. A row of padding alone is read whole, since
        the mean over no token is not a number."""
        real = tokens != self.pad
        return (real | ~real.any(1, keepdim=True)).long()

    def pooled(self, tokens: Tensor) -> Tensor:
        """Return the mean of the last states without padding: (B, S) -> (B, hidden)."""
        mask = self.mask(tokens)
        states = self.model(
            input_ids=tokens, attention_mask=mask
        ).last_hidden_state  # (B, S, hidden)
        weight = mask.unsqueeze(2).to(states.dtype)  # (B, S, 1)
        mean: Tensor = (states * weight).sum(1) / weight.sum(1)
        return mean


class Encoder(Pretrained):
    def __init__(self, config: str, normalize: bool) -> None:
        super().__init__(config)
        self.normalize = normalize

    def forward(self, tokens: Tensor) -> Tensor:
        pooled = self.pooled(tokens)  # (B, hidden)
        return F.normalize(pooled, dim=1) if self.normalize else pooled


class FreshClassifier(Pretrained):
    """An encoder with its own head, which starts random."""

    fresh = True

    def __init__(self, config: str, classes: int) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(getattr(self.model.config, "hidden_dropout_prob", 0.1))
        self.head = nn.Linear(self.model.config.hidden_size, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.dropout(self.pooled(tokens)))  # type: ignore[no-any-return]  # nn.Module calls are untyped


class LabelledClassifier(Pretrained):
    """A classifier with the folder's head."""

    auto = "AutoModelForSequenceClassification"

    @property
    def labels(self) -> list[str]:
        named: dict[int, str] = self.model.config.id2label
        return [named[number] for number in sorted(named)]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(input_ids=tokens, attention_mask=self.mask(tokens)).logits  # type: ignore[no-any-return]  # as above


def find_padding(config: Any) -> int:
    """Return the padding token. Raises StageError for a model that reads no tokens or has no
    padding."""
    pad: int | None = getattr(config, "pad_token_id", None)
    if pad is None or getattr(config, "vocab_size", None) is None:
        raise StageError(
            f"this {config.model_type} has no pad_token_id, or reads no tokens; for a text model "
            "set pad_token_id in its config.json to the padding of its tokenizer, and export "
            "another kind of model to ONNX (onnx = ...)"
        )
    return pad


def import_transformers() -> Any:
    """Import transformers. Raises StageError if it is not installed."""
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise StageError(
            f"a Hugging Face network needs transformers ({error}); pip install 'attar[text]'"
        ) from error
    return transformers


def parse_config(config: str) -> Any:
    """Parse the text of a ``config.json``. Raises StageError for a kind of model that transformers
    does not know."""
    known = import_transformers().CONFIG_MAPPING
    settings = json.loads(config)
    kind = settings.get("model_type")
    if kind not in known:
        raise StageError(
            f"transformers knows no model_type {kind!r}; {suggest_name(str(kind), list(known))}"
        )
    return known[kind].from_dict(settings)


@contextmanager
def report_reading_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise StageError(
            f"the weights in {folder} cannot be read ({message}); is it whole, and no pointer of "
            "git-lfs? Fetch it again"
        ) from error


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Disable the progress bar and the report of unused weights; `Pretrained.fill` reports missing
    ones."""
    logging = import_transformers().utils.logging
    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()
