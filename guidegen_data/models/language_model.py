"""Report text -> Findings by a chat model of transformers, the answer forced into `forced_json`, beside the rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from guidegen_data.anatomy import TORSO, Anatomy
from guidegen_data.errors import GuideGenError, ModelError
from guidegen_data.reports import forced_json
from guidegen_data.reports.abstraction import Abstraction, Disagreement, abstract_report
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.sections import MAX_CHARACTERS

#: What reads a report: `abstract_report`, or a `LanguageModelAbstractor`.
Abstractor = Callable[[str, Anatomy], Abstraction]


def load_abstractor(name: str = "", device: str = "cpu") -> Abstractor:
    """The rules for '', else the chat model of that folder, GGUF file or hub id. ModelError when it cannot be used."""
    return LanguageModelAbstractor.from_pretrained(name, device) if name else abstract_report


@dataclass(frozen=True)
class LanguageModelAbstractor:
    """A causal language model with a chat template. Call it like `abstract_report`; nothing is drawn at random."""

    model: Any
    tokenizer: Any

    @classmethod
    def from_pretrained(cls, name: str, device: str = "cpu") -> LanguageModelAbstractor:
        """The model of a folder, a .gguf file (needs the package gguf) or a hub id; code that comes with it never runs.

        ModelError when it cannot be loaded or has no chat template.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        path = Path(name)
        if path.exists() or path.suffix == ".gguf":
            source, more = (str(path), {}) if path.suffix != ".gguf" else (str(path.parent), {"gguf_file": path.name})
        else:
            source, more = name, {}
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **more)
            model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **more)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise ModelError(
                f"expected a causal language model of transformers at {name!r}, got {type(error).__name__}; give a "
                f"folder, a .gguf file (needs the package gguf) or a hub id whose model needs no code of its own."
            ) from error
        if not tokenizer.chat_template:
            raise ModelError(f"expected a chat model at {name!r}, got one without a chat template; give a chat model.")
        return cls(model.to(device).eval(), tokenizer)

    def __call__(self, text: str, anatomy: Anatomy = TORSO) -> Abstraction:
        """What the model reads, and where the rules differ; what the rules read where the model cannot.

        The error of the rules when neither can.
        """
        rules: Abstraction | None = None
        try:
            rules = abstract_report(text, anatomy)
        except GuideGenError as error:
            failure = error
        try:
            found = self.findings(text, anatomy)
        except GuideGenError as error:
            if rules is None:
                raise failure from None
            return replace(rules, ignored=(*rules.ignored, f"the language model was not used: {error}"))
        if rules is None:
            understood = (f"the rules could not read it: {failure}",)
            return Abstraction(found, understood, (), "language model", disagreements(None, found))
        return Abstraction(
            found, rules.understood, rules.ignored, "language model", disagreements(rules.findings, found)
        )

    def findings(self, text: str, anatomy: Anatomy = TORSO) -> Findings:
        """The model's own reading. ModelError when the report does not fit into its context or the model fails."""
        import torch

        prompt = self._prompt(text, anatomy)
        limit = getattr(self.model.config, "max_position_embeddings", None) or 2**31
        room = 600 + 60 * len(anatomy.organs)
        if len(text) > MAX_CHARACTERS or len(prompt) + room > limit:
            raise ModelError(
                f"expected a report that fits into the model's context of {limit} tokens, got one of "
                f"{len(prompt)} with the instructions; use a model with a longer context."
            )
        answer = _Answer(self.model, self.tokenizer, prompt)
        try:
            with torch.inference_mode():
                written = forced_json.fill(anatomy, answer.choose)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            # A foreign model may fail in many ways, and its messages may hold the report.
            raise ModelError(
                f"the language model failed with {type(error).__name__}; try it on a shorter report or another device."
            ) from None
        return forced_json.read(written, anatomy)

    def _prompt(self, text: str, anatomy: Anatomy) -> list[int]:
        """Token ids of instructions, examples and report. The instructions stand in the user's turns: not every chat
        template has a system turn."""
        told = _instructions()
        for token in self.tokenizer.all_special_tokens:
            # A report that holds the marks of a turn must not end its turn.
            text = text.replace(token, " ")
        turns = []
        for example in told["examples"] if anatomy.name == TORSO.name else ():
            turns.append({"role": "user", "content": told["instructions"].replace("{report}", example["report"])})
            written = forced_json.write(Findings.from_dict({**example["findings"], "lesions": _lesions(example)}))
            turns.append({"role": "assistant", "content": written})
        turns.append({"role": "user", "content": told["instructions"].replace("{report}", text)})
        rendered = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(rendered, add_special_tokens=False).input_ids)


def _lesions(example: dict[str, Any]) -> list[dict[str, Any]]:
    return example["findings"].get("lesions", [])


@cache
def _instructions() -> dict[str, Any]:
    source = resources.files("guidegen_data.reports").joinpath("data/abstractor-prompt.yaml")
    return yaml.safe_load(source.read_text(encoding="utf-8"))


class _Answer:
    """The answer as it is decoded: fixed text is appended at once, an option token by token among the options left."""

    def __init__(self, model: Any, tokenizer: Any, prompt: list[int]) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._waiting = prompt
        self._cache: Any = None
        self._told = 0

    def choose(self, text: str, options: Sequence[str]) -> str:
        """The option that the model goes for, most likely token first, after the answer's text so far."""
        self._waiting += self._ids(text[self._told :])
        left = {option: self._ids(option) for option in options}
        depth = 0
        while len(left) > 1:
            allowed = sorted({ids[depth] for ids in left.values()})
            token = allowed[0]
            if len(allowed) > 1:
                token = allowed[int(self._logits()[allowed].argmax())]
            self._waiting.append(token)
            left = {option: ids for option, ids in left.items() if ids[depth] == token}
            depth += 1
        ((chosen, ids),) = left.items()
        self._waiting += ids[depth:]
        self._told = len(text) + len(chosen)
        return chosen

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def _logits(self) -> Any:
        """Logits (V,) of the next token after all that waits."""
        import torch

        ids = torch.tensor([self._waiting], device=self.model.device)
        out = self.model(input_ids=ids, past_key_values=self._cache, use_cache=True)
        self._cache, self._waiting = out.past_key_values, []
        return out.logits[0, -1]


def disagreements(rules: Findings | None, model: Findings) -> tuple[Disagreement, ...]:
    """Field by field what rules and model read differently; all that the model states where the rules read nothing."""
    told = _fields(model)
    other = _fields(rules) if rules is not None else {}
    names = sorted({*told, *other})
    return tuple(
        Disagreement(name, other.get(name, ""), told.get(name, ""))
        for name in names
        if other.get(name, "") != told.get(name, "")
    )


def _fields(findings: Findings) -> dict[str, str]:
    """Every stated fact by its name: 'liver' -> 'enlarged', 'lesions in liver right lobe' -> '24 mm hypodense'."""
    age = "" if findings.age_decade is None else f"{findings.age_decade}s"
    fields = {"region": findings.region, "phase": findings.phase, "sex": findings.sex, "age": age}
    fields["habitus"] = findings.habitus
    fields |= {organ: status for organ, status in findings.organs.items() if status != "normal"}
    places: dict[str, list[str]] = {}
    for lesion in findings.lesions:
        words = f"{lesion.size_mm:.0f} mm {lesion.attenuation}".strip()
        places.setdefault(f"lesions in {lesion.organ} {lesion.site}".strip(), []).append(words)
    return {name: value for name, value in fields.items() if value} | {
        place: ", ".join(sorted(words)) for place, words in places.items()
    }
