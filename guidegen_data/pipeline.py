"""GuideGenPipeline: report text -> label maps -> CTs. One folder is one model (diffusers layout, safetensors)."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidegen_data import __version__
from guidegen_data.case import Case, Draft, centred_affine
from guidegen_data.cleanup import clean_up
from guidegen_data.diffusion.categorical import CategoricalScheduler
from guidegen_data.errors import ModelError
from guidegen_data.grounding import settle_lesions
from guidegen_data.models import DiffusionPipeline
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.detail import DetailNetwork
from guidegen_data.models.fat import DrawsTissues
from guidegen_data.models.folder import anatomy_of, fingerprint_of, model_folder
from guidegen_data.models.mask_sampler import MaskSampler
from guidegen_data.models.precision import choose_device, compute_dtype, place, to_device
from guidegen_data.models.segmenter import Segmenter
from guidegen_data.models.slice_generator import SliceGenerator
from guidegen_data.models.text import DEFAULT_ENCODER
from guidegen_data.pipeline_stages import StageSampling
from guidegen_data.reports.findings import Findings
from guidegen_data.scanned import only_scanned
from guidegen_data.tissue_rule import of_ct

_PARTS = ("mask_sampler", "detail_network", "tissue_network", "autoencoder", "slice_generator")


class GuideGenPipeline(StageSampling, DiffusionPipeline):
    """Both stages with their schedulers. `from_pretrained("torso")` loads the default model that comes installed.

    A model with a `detail_network` draws some classes anew at full resolution, where stage 1's grid is too coarse. One
    with a `tissue_network` draws fat, soft tissue and bone around the classes of a label map before its CT. One with a
    `second_reader` has every CT read by it, and the verdict asks for the Dice `least_read_dice` of the classes in it.
    """

    _optional_components = ["detail_network", "tissue_network", "second_reader"]  # noqa: RUF012 - diffusers reads it so

    def __init__(
        self,
        mask_sampler: MaskSampler,
        mask_scheduler: CategoricalScheduler,
        autoencoder: CTAutoencoder,
        slice_generator: SliceGenerator,
        slice_scheduler: Any,
        tissue_network: DrawsTissues | None = None,
        detail_network: DetailNetwork | None = None,
        second_reader: Segmenter | None = None,
        anatomy_name: str = "torso",
        text_encoder: str = DEFAULT_ENCODER,
        num_steps_mask: int = 16,
        num_steps_ct: int = 3,
        num_steps_detail: int = 6,
        guidance: float = 2.0,
        previous_level: float = 0.1,
        anchor_time: float = 0.9,
        anchor_strength: float = 1.3,
        size_strength: float = 0.6,
        layout_width: float = 0.9,
        volume_ratio: Sequence[float] | None = None,
        delay_ct: int | None = None,
        noise_hu: Sequence[float] = (3.0, 12.0),
        hold_hu: bool = True,
        hold_contrast: bool = False,
        noise_correlation: float = 0.0,
        least_read_dice: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            mask_sampler=mask_sampler,
            mask_scheduler=mask_scheduler,
            autoencoder=autoencoder,
            slice_generator=slice_generator,
            slice_scheduler=slice_scheduler,
            tissue_network=tissue_network,
            detail_network=detail_network,
            second_reader=second_reader,
        )
        self.register_to_config(
            anatomy_name=anatomy_name,
            text_encoder=text_encoder,
            num_steps_mask=num_steps_mask,
            num_steps_ct=num_steps_ct,
            num_steps_detail=num_steps_detail,
            guidance=guidance,
            previous_level=previous_level,
            anchor_time=anchor_time,
            anchor_strength=anchor_strength,
            size_strength=size_strength,
            layout_width=layout_width,
            volume_ratio=None if volume_ratio is None else list(volume_ratio),
            delay_ct=delay_ct,
            noise_hu=tuple(noise_hu),
            hold_hu=hold_hu,
            hold_contrast=hold_contrast,
            noise_correlation=noise_correlation,
            least_read_dice=least_read_dice,
        )
        self.fingerprint = ""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, device: str = "auto", **kwargs: Any) -> GuideGenPipeline:
        """A model by the name of an installed one ('torso') or from a folder; ready to generate on `device`.

        Raises ModelError when there is no such model, or a file of it is missing, truncated or not safetensors, and
        AnatomyError when its label table has other classes than one of that name that is known.
        """
        folder = model_folder(name_or_path)
        try:
            pipe = super().from_pretrained(folder, use_safetensors=True, local_files_only=True, **kwargs)
        except Exception as error:  # diffusers and safetensors raise many kinds for a damaged folder
            raise ModelError(
                f"model folder {folder.name!r} cannot be loaded ({type(error).__name__}); a weight file is missing, "
                f"truncated or of another kind: copy the folder again."
            ) from error
        pipe.fingerprint, pipe._table = fingerprint_of(folder), anatomy_of(folder)
        return pipe.prepare(device)

    def prepare(self, device: str = "auto") -> GuideGenPipeline:
        """Puts the networks on a device in the precision that suits it, ready for inference."""
        where = choose_device(device)
        for part in filter(None, (getattr(self, name) for name in _PARTS)):
            place(part, where, compute_dtype(where))
        if self.second_reader is not None:
            place(self.second_reader, where, torch.float32)  # it takes care of its precision itself
        return self

    def compile(self) -> GuideGenPipeline:
        """Has torch.compile make code of stage 2's network: on the CPU measured its calls take a quarter less time,
        once the first one of every batch size has taken most of a minute.

        Code is made for each batch size alone, so that a case does not depend on what was made before it. Rounding
        differs from the network's own: the same seed gives a case a little different. ModelError where a CPU has no
        C++ compiler beside it.
        """
        if self.device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
            raise ModelError("compiling needs a C++ compiler, and none is found; install g++ or leave --compile out.")
        # Of cached functions in diffusers that ask for versions: what they say never changes.
        warnings.filterwarnings("ignore", message=r"(?s).*lru_cache", category=UserWarning)
        self.slice_generator.compile(dynamic=False)
        return self

    def generate(
        self,
        findings: Sequence[Findings],
        reports: Sequence[str],
        keys: Sequence[str],
        seeds: Sequence[int],
        *,
        num_steps_mask: int | None = None,
        num_steps_ct: int | None = None,
        guidance: float | None = None,
        known: Tensor | None = None,
        organ_hu: Mapping[str, float] | None = None,
    ) -> list[Case]:
        """Cases made together, case b from seeds[b] alone; all lists have one entry a case. HU are absolute.

        Step counts and guidance default to the model's own. `known` (B, X, Y, Z) keeps parts of label maps you have:
        labels where they are given, -1 elsewhere. `organ_hu` asks for the median HU of classes by name, for example
        {"aorta": 320}; the others' are drawn for the contrast phase. Raises ModelError when the lists differ in length
        or the model is not told the HU of such a class.
        """
        drafts = self.draft(
            findings, reports, keys, seeds, num_steps_mask=num_steps_mask, guidance=guidance, known=known
        )
        return self.complete(drafts, num_steps_ct=num_steps_ct, organ_hu=organ_hu)

    def draft(
        self,
        findings: Sequence[Findings],
        reports: Sequence[str],
        keys: Sequence[str],
        seeds: Sequence[int],
        *,
        num_steps_mask: int | None = None,
        guidance: float | None = None,
        known: Tensor | None = None,
    ) -> list[Draft]:
        """Stage 1 of `generate`: label maps that can be looked at before the time for their CTs is spent."""
        if not len(findings) == len(reports) == len(keys) == len(seeds):
            raise ModelError("findings, reports, keys and seeds need one entry a case.")
        generators = [torch.Generator().manual_seed(int(s) % 2**63) for s in seeds]
        held = self.label_maps(findings, generators, seeds, num_steps_mask, guidance, known)
        settings = {
            "model_sha256": self.fingerprint,
            "package_version": __version__,
            "num_steps_mask": num_steps_mask or self.config.num_steps_mask,
            "guidance": self.config.guidance if guidance is None else guidance,
        }
        if self.detail_network is not None:
            settings["num_steps_detail"] = self.config.num_steps_detail
        affine = centred_affine(self.anatomy.shape, self.anatomy.spacing_mm)
        return [
            Draft(key, label_map, affine, report, asked, settings | {"seed": int(seed)} | done, generator)
            for (label_map, done), key, report, asked, seed, generator in zip(
                held, keys, reports, findings, seeds, generators, strict=True
            )
        ]

    def complete(
        self,
        drafts: Sequence[Draft],
        *,
        num_steps_ct: int | None = None,
        seeds: Sequence[int] | None = None,
        organ_hu: Mapping[str, float] | None = None,
    ) -> list[Case]:
        """Stage 2 of `generate`: drafts with their CTs, made together. A draft's random state is used up by it.

        With `seeds`, one a draft, each starts anew instead: one label map gets as many CTs as it is given seeds.
        Tissues of the table are cut out of the CT afterwards where the slices draw their detail (`loose_tissues`).
        """
        generators = [d.generator for d in drafts]
        if seeds is not None:
            generators = [torch.Generator().manual_seed(int(s) % 2**63) for s in seeds]
        tokens = self.encode_findings([d.findings for d in drafts])
        labels = to_device(torch.stack([torch.from_numpy(d.label_map) for d in drafts]), tokens.device)
        styles = self.styles(generators)
        hu = self.organ_hu([d.findings.phase for d in drafts], generators, organ_hu)
        cts = self.sample_cts(labels, tokens, generators, num_steps_ct, styles, hu, [d.findings for d in drafts])
        steps = num_steps_ct or self.config.num_steps_ct
        told = [{} for _ in drafts] if hu is None else [{"organ_hu": self.by_name(row)} for row in hu]
        arrays = [ct.cpu().numpy() for ct in cts]
        if self.slice_generator.config.loose_tissues:
            cut = [of_ct(draft.label_map, ct, self.anatomy) for draft, ct in zip(drafts, arrays, strict=True)]
            drafts = [replace(draft, label_map=labels) for draft, labels in zip(drafts, cut, strict=True)]
        return [
            draft.with_ct(ct, {"num_steps_ct": steps, "noise": vars(style), **of_organs, **self.read(draft, ct)})
            for draft, ct, style, of_organs in zip(drafts, arrays, styles, told, strict=True)
        ]

    def label_maps(
        self,
        findings: Sequence[Findings],
        generators: list[torch.Generator],
        seeds: Sequence[int],
        num_steps: int | None = None,
        guidance: float | None = None,
        known: Tensor | None = None,
    ) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Stage 1 held to its findings: (X, Y, Z) uint8 a case, and what was done to it after sampling.

        Organs said to be absent are kept out of every belief, lesions are anchored at their sites, classes of the
        detail network are drawn anew, specks are cleaned away, lesions that are still missing at their sites are added
        and others given back; the second item counts the last three.
        """
        anatomy = self.anatomy
        placer, constraints = self.placer(findings, seeds), self.constraints(findings)
        masks = self.sample_masks(
            self.condition(findings, seeds),
            generators,
            num_steps,
            guidance,
            known=known,
            place=placer,
            **constraints,
        )
        if self.detail_network is not None:
            steps, forbidden = self.config.num_steps_detail, constraints["forbidden"]
            masks = self.detail_network.draw(masks, generators, steps, forbidden, known)
        spacing, held = anatomy.spacing_mm, []
        for b, (mask, asked, seed) in enumerate(zip(masks, findings, seeds, strict=True)):
            label_map, lost = clean_up(mask.cpu().numpy(), asked, spacing)
            outside = 0
            if known is None:
                label_map, outside = only_scanned(label_map, anatomy, spacing)
            rng = np.random.default_rng(int(seed) % 2**63)
            places = placer.places_in(b, anatomy.shape)
            label_map, added, num_strays = settle_lesions(label_map, asked, spacing, rng, places)
            if known is not None:
                given = known[b].cpu().numpy()
                label_map = np.where(given >= 0, given, label_map).astype(np.uint8)
            done = {"cleaned_voxels": lost, "lesions_added": len(added), "lesions_given_back": num_strays}
            done |= {"voxels_outside_the_scan": outside} if outside else {}
            held.append((label_map, done))
        return held

    @torch.inference_mode()
    def __call__(self, reports: str | Sequence[str], seed: int = 0, **settings: Any) -> list[Case]:
        """Cases from report text, case b from seed + b. `settings` are those of `generate`."""
        from guidegen_data.reports.abstraction import abstract_report

        texts = [reports] if isinstance(reports, str) else list(reports)
        findings = [abstract_report(text, self.anatomy).findings for text in texts]
        keys = [f"case-{seed + b}" for b in range(len(texts))]
        return self.generate(findings, texts, keys, [seed + b for b in range(len(texts))], **settings)
