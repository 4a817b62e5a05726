"""GuideGenPipeline: report text -> label maps -> CTs. One folder is one model (diffusers layout, safetensors)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidegen_data import __version__
from guidegen_data.anatomy import Anatomy, anatomy_named
from guidegen_data.anatomy_files import FILE_NAME, read_anatomy
from guidegen_data.case import Case, centred_affine
from guidegen_data.cleanup import clean_up
from guidegen_data.diffusion.categorical import CategoricalScheduler
from guidegen_data.errors import ModelError
from guidegen_data.grounding import LesionPlacer, add_missing_lesions, forbidden_classes, mask_prompt, size_lean
from guidegen_data.models import DiffusionPipeline
from guidegen_data.models.anchors import Placement
from guidegen_data.models.autoencoder import CTAutoencoder
from guidegen_data.models.folder import fingerprint_of, model_folder
from guidegen_data.models.mask_sampler import MaskCondition, MaskSampler
from guidegen_data.models.noise_style import NoiseStyle, draw_style, with_noise
from guidegen_data.models.precision import choose_device, compute_dtype, place
from guidegen_data.models.sampling import sample_masks
from guidegen_data.models.sampling_ct import sample_cts
from guidegen_data.models.slice_generator import SliceGenerator
from guidegen_data.models.text import DEFAULT_ENCODER, TextEncoder
from guidegen_data.reports.fields import field_values
from guidegen_data.reports.findings import Findings

_PARTS = ("mask_sampler", "autoencoder", "slice_generator")


class GuideGenPipeline(DiffusionPipeline):
    """Both stages with their schedulers. `from_pretrained("torso")` loads the default model that comes installed."""

    def __init__(
        self,
        mask_sampler: MaskSampler,
        mask_scheduler: CategoricalScheduler,
        autoencoder: CTAutoencoder,
        slice_generator: SliceGenerator,
        slice_scheduler: Any,
        anatomy_name: str = "torso",
        text_encoder: str = DEFAULT_ENCODER,
        num_steps_mask: int = 16,
        num_steps_ct: int = 3,
        guidance: float = 2.0,
        previous_level: float = 0.1,
        anchor_time: float = 0.9,
        anchor_strength: float = 1.3,
        size_strength: float = 0.6,
        volume_ratio: Sequence[float] | None = None,
        delay_ct: int | None = None,
        noise_hu: tuple[float, float] = (3.0, 12.0),
    ) -> None:
        super().__init__()
        self.register_modules(
            mask_sampler=mask_sampler,
            mask_scheduler=mask_scheduler,
            autoencoder=autoencoder,
            slice_generator=slice_generator,
            slice_scheduler=slice_scheduler,
        )
        self.register_to_config(
            anatomy_name=anatomy_name,
            text_encoder=text_encoder,
            num_steps_mask=num_steps_mask,
            num_steps_ct=num_steps_ct,
            guidance=guidance,
            previous_level=previous_level,
            anchor_time=anchor_time,
            anchor_strength=anchor_strength,
            size_strength=size_strength,
            volume_ratio=None if volume_ratio is None else list(volume_ratio),
            delay_ct=delay_ct,
            noise_hu=tuple(noise_hu),
        )
        self.fingerprint = ""
        self._text: TextEncoder | None = None

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, device: str = "auto", **kwargs: Any) -> GuideGenPipeline:
        """A model by the name of an installed one ('torso') or from a folder; ready to generate on `device`.

        Raises ModelError when there is no such model, or a file of it is missing, truncated or not safetensors.
        """
        folder = model_folder(name_or_path)
        if (folder / FILE_NAME).exists():
            read_anatomy(folder / FILE_NAME)
        try:
            pipe = super().from_pretrained(folder, use_safetensors=True, local_files_only=True, **kwargs)
        except Exception as error:  # diffusers and safetensors raise many kinds for a damaged folder
            raise ModelError(
                f"model folder {folder.name!r} cannot be loaded ({type(error).__name__}); a weight file is missing, "
                f"truncated or of another kind: copy the folder again."
            ) from error
        pipe.fingerprint = fingerprint_of(folder)
        return pipe.prepare(device)

    def prepare(self, device: str = "auto") -> GuideGenPipeline:
        """Puts the networks on a device in the precision that suits it, ready for inference."""
        where = choose_device(device)
        for name in _PARTS:
            place(getattr(self, name), where, compute_dtype(where))
        return self

    @property
    def anatomy(self) -> Anatomy:
        return anatomy_named(self.config.anatomy_name)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Tokens (B, L, D) of the frozen language encoder, on the networks' device and in their precision."""
        if self._text is None:
            self._text = TextEncoder(self.config.text_encoder)
        weight = next(self.mask_sampler.parameters())
        return self._text(list(prompts)).to(weight)

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
    ) -> list[Case]:
        """Cases made together, case b from seeds[b] alone; all lists have one entry a case. HU are absolute.

        Step counts and guidance default to the model's own. `known` (B, X, Y, Z) keeps parts of label maps you have:
        labels where they are given, -1 elsewhere. Raises ModelError when the lists differ in length.
        """
        if not len(findings) == len(reports) == len(keys) == len(seeds):
            raise ModelError("findings, reports, keys and seeds need one entry a case.")
        config = self.config
        tokens = self.encode([f.prompt() for f in findings])
        generators = [torch.Generator().manual_seed(int(s) % 2**63) for s in seeds]
        held = self.label_maps(findings, generators, seeds, num_steps_mask, guidance, known)
        labels = torch.stack([torch.from_numpy(label_map) for label_map, _ in held]).to(tokens.device)
        styles = self.styles(generators)
        cts = self.sample_cts(labels, tokens, generators, num_steps_ct, styles)
        settings = {
            "model_sha256": self.fingerprint,
            "package_version": __version__,
            "num_steps_mask": num_steps_mask or config.num_steps_mask,
            "num_steps_ct": num_steps_ct or config.num_steps_ct,
            "guidance": config.guidance if guidance is None else guidance,
        }
        affine = centred_affine(self.anatomy.shape, self.anatomy.spacing_mm)
        return [
            Case(
                key=keys[b],
                ct_hu=cts[b].cpu().numpy(),
                label_map=held[b][0],
                affine=affine,
                report=reports[b],
                findings=findings[b],
                provenance=settings | {"seed": int(seeds[b]), "noise": vars(styles[b])} | held[b][1],
            )
            for b in range(len(keys))
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

        Organs said to be absent are kept out of every belief, lesions are anchored at their sites, specks are cleaned
        away, and lesions that are still missing at their sites are added; the second item counts the last two.
        """
        anatomy, width = self.anatomy, self.mask_sampler.config.shape[0]
        placer = self.placer(findings, seeds)
        masks = self.sample_masks(
            self.condition(findings),
            generators,
            num_steps,
            guidance,
            forbidden=torch.from_numpy(np.stack([forbidden_classes(f, width) for f in findings])),
            lean=torch.from_numpy(np.stack([size_lean(f, width, self.config.size_strength) for f in findings])),
            known=known,
            place=placer,
        )
        spacing, held = anatomy.spacing_mm, []
        for b, (mask, asked, seed) in enumerate(zip(masks, findings, seeds, strict=True)):
            label_map, lost = clean_up(mask.cpu().numpy(), asked, spacing)
            rng = np.random.default_rng(int(seed) % 2**63)
            places = placer.places_in(b, anatomy.shape)
            label_map, added = add_missing_lesions(label_map, asked, spacing, rng, places)
            if known is not None:
                given = known[b].cpu().numpy()
                label_map = np.where(given >= 0, given, label_map).astype(np.uint8)
            held.append((label_map, {"cleaned_voxels": lost, "lesions_added": len(added)}))
        return held

    def placer(self, findings: Sequence[Findings], seeds: Sequence[int]) -> LesionPlacer:
        """The `place` of `sample_masks` for these cases."""
        config = self.config
        return LesionPlacer(findings, seeds, self.anatomy.field_mm, config.anchor_time, config.anchor_strength)

    def condition(self, findings: Sequence[Findings]) -> MaskCondition:
        """What stage 1 is told of each case, without lesion anchors: those are placed while sampling."""
        tokens = self.encode([mask_prompt(f) for f in findings])
        names = self.mask_sampler.config.fields
        fields = torch.from_numpy(np.stack([field_values(f, names) for f in findings]))
        anchors = torch.zeros(len(findings), *self.mask_sampler.config.shape)
        return MaskCondition(tokens, fields.to(tokens.device), anchors.to(tokens.device))

    def sample_masks(
        self,
        condition: MaskCondition,
        generators: list[torch.Generator],
        num_steps: int | None = None,
        guidance: float | None = None,
        temperature: float = 1.0,
        forbidden: Tensor | None = None,
        lean: Tensor | None = None,
        known: Tensor | None = None,
        place: Callable[[float, Tensor], Placement | None] | None = None,
    ) -> Tensor:
        """Stage 1: label maps (B, X, Y, Z) uint8 as the network draws them; arguments as in `models.sampling`."""
        return sample_masks(
            self.mask_sampler,
            self.mask_scheduler,
            condition,
            generators,
            self.anatomy.shape,
            num_steps or self.config.num_steps_mask,
            self.config.guidance if guidance is None else guidance,
            temperature,
            forbidden,
            lean,
            known,
            place,
            None if self.config.volume_ratio is None else torch.tensor(self.config.volume_ratio),
        )

    def sample_cts(
        self,
        label_maps: Tensor,
        tokens: Tensor,
        generators: list[torch.Generator],
        num_steps: int | None = None,
        styles: Sequence[NoiseStyle] | None = None,
    ) -> Tensor:
        """Stage 2: CTs (B, X, Y, Z) int16 HU of label maps (B, X, Y, Z) uint8, your own or stage 1's.

        Each gets the noise of its style, drawn from its generator where none is given.
        """
        styles = self.styles(generators) if styles is None else styles
        cts = sample_cts(
            self.slice_generator,
            self.slice_scheduler,
            self.autoencoder,
            label_maps,
            tokens,
            generators,
            num_steps or self.config.num_steps_ct,
            self.config.previous_level,
            self.config.delay_ct,
        )
        spacing, hu_range = self.anatomy.spacing_mm, self.anatomy.hu_range
        noisy = [with_noise(c, spacing, s, g, hu_range) for c, s, g in zip(cts, styles, generators, strict=True)]
        return torch.stack(noisy)

    def styles(self, generators: list[torch.Generator]) -> list[NoiseStyle]:
        """A noise style a case, each from its own generator."""
        return [draw_style(g, tuple(self.config.noise_hu)) for g in generators]

    @torch.inference_mode()
    def __call__(self, reports: str | Sequence[str], seed: int = 0, **settings: Any) -> list[Case]:
        """Cases from report text, case b from seed + b. `settings` are those of `generate`."""
        from guidegen_data.reports.abstraction import abstract_report

        texts = [reports] if isinstance(reports, str) else list(reports)
        findings = [abstract_report(text, self.anatomy).findings for text in texts]
        keys = [f"case-{seed + b}" for b in range(len(texts))]
        return self.generate(findings, texts, keys, [seed + b for b in range(len(texts))], **settings)
