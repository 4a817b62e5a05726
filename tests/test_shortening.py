"""Prompts that are too long are shortened alike where a model is trained and where it is asked for a case."""

from dataclasses import replace
from pathlib import Path

import little_patients
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import findings
from tiny import tiny_pipeline

from guidegen_data.anatomy import TORSO
from guidegen_data.anatomy_files import read_anatomy
from guidegen_data.case import Draft, centred_affine
from guidegen_data.cli.main import main
from guidegen_data.errors import ModelError
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.text import TextEncoder
from guidegen_data.reports.findings import Findings, Lesion
from guidegen_data.reports.shortening import fitting_prompt, unsized
from guidegen_data.training.latents import load_latent_data
from guidegen_data.training.masks import load_mask_data

ENLARGED = {o.name: "enlarged" for o in TORSO.organs if "enlarged" in o.statuses}
LESIONS = tuple(Lesion("liver", "right lobe", float(mm), "hypodense") for mm in (30, 80, 10, 40, 20))


def in_words(num_words: int):
    return lambda prompt: len(prompt.split()) <= num_words


def said(prompt: str) -> set[str]:
    return set(prompt.removesuffix(".").split(". "))


@given(asked=findings(max_lesions=5), num_words=st.integers(1, 60))
def test_a_prompt_that_fits_stays_and_one_that_does_not_is_what_stage_1_is_asked(asked: Findings, num_words) -> None:
    fits = in_words(num_words)
    told = fitting_prompt(asked, fits)
    if fits(asked.prompt()):
        assert told == asked.prompt()
    else:
        assert told == fitting_prompt(unsized(asked), fits)
        assert said(told) <= said(asked.prompt())
    if fits(replace(asked, organs={}, lesions=()).prompt()) and not asked.lesions:
        assert fits(told)


@given(asked=findings(max_lesions=5), num_words=st.integers(1, 60))
def test_a_patient_with_tumours_is_never_said_to_have_none(asked: Findings, num_words) -> None:
    told = fitting_prompt(asked, in_words(num_words))
    assert ("no tumour" in told) == (not asked.lesions)
    largest = max((lesion.size_mm for lesion in asked.lesions), default=None)
    assert largest is None or f" {largest:.0f} mm in " in told


def test_sizes_go_before_the_smallest_tumours_and_these_before_organs_that_are_absent() -> None:
    organs = {"liver": "enlarged", "spleen": "absent", "gallbladder": "absent"}
    asked = Findings(region="abdomen", organs=organs, lesions=LESIONS)
    lengths = range(len(asked.prompt().split()), 0, -1)
    told = list(dict.fromkeys(fitting_prompt(asked, in_words(n)) for n in lengths))
    absent = {"spleen": "absent", "gallbladder": "absent"}
    kept = [(30, 80, 10, 40, 20), (30, 80, 40, 20), (30, 80, 40), (80, 40), (80,)]
    lesions = [tuple(x for x in LESIONS if x.size_mm in sizes) for sizes in kept]
    expected = [asked, *(Findings(region="abdomen", organs=absent, lesions=some) for some in lesions)]
    expected += [replace(expected[-1], organs={"gallbladder": "absent"}), replace(expected[-1], organs={})]
    assert told == [f.prompt() for f in expected]


def test_both_stages_of_a_model_can_be_asked_for_more_than_a_prompt_can_hold(monkeypatch) -> None:
    asked, short = Findings(organs=ENLARGED, lesions=LESIONS), Findings(lesions=LESIONS)
    with pytest.raises(ModelError, match="more than 96 tokens"):
        TextEncoder()([asked.prompt()])
    pipe, told = tiny_pipeline(), []
    expected = pipe.encode([short.prompt()])
    assert torch.equal(pipe.condition([asked]).tokens, expected)

    def sample_cts(labels: torch.Tensor, tokens: torch.Tensor, *more) -> torch.Tensor:
        told.append(tokens)
        cts = torch.full_like(labels, -1000, dtype=torch.int16)
        cts[:, 0] = 100
        return cts

    monkeypatch.setattr(pipe, "sample_cts", sample_cts)
    label_map = np.zeros(TORSO.shape, np.uint8)
    affine = centred_affine(TORSO.shape, TORSO.spacing_mm)
    pipe.complete([Draft("case", label_map, affine, ".", asked, generator=torch.Generator())])
    assert torch.equal(told[0], expected)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shortening")
    little_patients.write_nifti(folder / "src", 3)
    table = str(folder / "src" / "anatomy.yaml")
    words = ["prepare", "nifti", str(folder / "src"), str(folder / "out"), "--anatomy", table]
    assert main([*words, "--validation-share", "0"]) == 0
    return folder / "out"


def load(stage: str, prepared: Path, cache: Path, encoder: TextEncoder) -> torch.Tensor:
    table = read_anatomy(prepared / "anatomy.yaml")
    if stage == "masks":
        for path in (prepared / "train").glob("masks-*.pt"):
            path.unlink()
        return load_mask_data(prepared / "train", table, encoder, (16, 16, 16)).tokens
    autoencoder = CTAutoencoder(latent_channels=2, block_out_channels=(8, 8)).eval()
    return load_latent_data(prepared / "train", table, autoencoder, encoder, cache / "latents.pt").tokens


@pytest.mark.parametrize("stage", ["masks", "slices"])
def test_training_goes_on_with_shorter_prompts_and_names_a_case_whose_prompt_cannot_be(
    prepared, tmp_path, monkeypatch, stage
) -> None:
    (tmp_path / "whole").mkdir()
    whole = load(stage, prepared, tmp_path / "whole", TextEncoder())
    grown = {"liver": "enlarged", "spleen": "small"}
    held = Findings.from_dict
    monkeypatch.setattr(Findings, "from_dict", lambda data: held({**data, "organs": grown}))
    (tmp_path / "a").mkdir()
    told = load(stage, prepared, tmp_path / "a", TextEncoder(max_tokens=29))
    assert (told.shape[:2], told.shape[2]) == (whole.shape[:2], 29)
    (tmp_path / "b").mkdir()
    with pytest.raises(ModelError, match=r"case-000000.npz: a prompt has more than 9 tokens; state fewer findings"):
        load(stage, prepared, tmp_path / "b", TextEncoder(max_tokens=9))
