"""The two stages of a pipeline, one call each: what is told of the findings, label maps drawn, CTs drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guidegen_data.anatomy import Anatomy, anatomy_named
from guidegen_data.anatomy_files import register
from guidegen_data.case import Draft
from guidegen_data.errors import ModelError
from guidegen_data.grounding import LesionPlacer, expected_volumes_ml, forbidden_classes
from guidegen_data.lesion_contrast import hold_lesion_hu
from guidegen_data.models.anchors import Placement
from guidegen_data.models.contrast import far_from_soft_tissue, hold_contrast
from guidegen_data.models.hu_prior import phase_row
from guidegen_data.models.inhomogeneity import hold_organ_hu
from guidegen_data.models.mask_sampler import MaskCondition
from guidegen_data.models.noise_style import NoiseStyle, draw_style, with_noise
from guidegen_data.models.sampling import sample_masks
from guidegen_data.models.sampling_ct import sample_cts
from guidegen_data.models.segmenter import second_read
from guidegen_data.models.text import TextEncoder
from guidegen_data.models.volume_bounds import VolumeBound
from guidegen_data.organ_sizes import size_bounds, size_lean
from guidegen_data.reports.fields import field_values
from guidegen_data.reports.findings import Findings
from guidegen_data.reports.shortening import unsized
from guidegen_data.tissue_rule import tissue_ids

#: Sets the random numbers of layouts apart from those of the label maps with the same seed.
_LAYOUTS = 0x1A70


class StageSampling:
    """What GuideGenPipeline can do with its networks and its configuration, each step by itself."""

    config: Any
    mask_sampler: Any
    mask_scheduler: Any
    autoencoder: Any
    slice_generator: Any
    slice_scheduler: Any
    tissue_network: Any
    detail_network: Any
    second_reader: Any
    _text: TextEncoder | None = None
    _table: Anatomy | None = None

    @property
    def anatomy(self) -> Anatomy:
        """The label table, with the measures of the model's own folder where it was loaded from one.

        Findings know a table by its name. Whatever else was read under that name since, such as that of another model
        or of shards, this one is known by it again whenever the model is at work: each draws by its own sizes and
        places. Two models whose tables share a name must not be at work at the same time in two threads.
        """
        if self._table is None:
            return anatomy_named(self.config.anatomy_name)
        return register(self._table)

    @property
    def most_steps_mask(self) -> int:
        """Steps that stage 1 can take at the most."""
        return self.mask_scheduler.process.num_timesteps

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Tokens (B, L, D) of the frozen language encoder, on the networks' device and in their precision."""
        weight = next(self.mask_sampler.parameters())
        return self._encoder()(list(prompts)).to(weight)

    def encode_findings(self, findings: Sequence[Findings]) -> Tensor:
        """The same of the prompts of findings, shortened where they are too long, as those that stages learn from."""
        return self.encode([self._encoder().prompt_of(f) for f in findings])

    def _encoder(self) -> TextEncoder:
        if self._text is None:
            self._text = TextEncoder(self.config.text_encoder)
        return self._text

    def placer(self, findings: Sequence[Findings], seeds: Sequence[int]) -> LesionPlacer:
        """The `place` of `sample_masks` for these cases."""
        config = self.config
        return LesionPlacer(findings, seeds, self.anatomy.field_mm, config.anchor_time, config.anchor_strength)

    def condition(self, findings: Sequence[Findings], seeds: Sequence[int] | None = None) -> MaskCondition:
        """What stage 1 is told of each case, without lesion anchors: those are placed while sampling.

        With seeds, one a case, a model that knows layouts draws one for each; without, it is told none.
        """
        tokens = self.encode_findings([unsized(f) for f in findings])
        names = self.mask_sampler.config.fields
        fields = torch.from_numpy(np.stack([field_values(f, names) for f in findings]))
        anchors = torch.zeros(len(findings), *self.mask_sampler.config.shape)
        layout = None if seeds is None else self._layouts(findings, fields.to(tokens.device), seeds)
        return MaskCondition(tokens, fields.to(tokens.device), anchors.to(tokens.device), layout)

    def _layouts(self, findings: Sequence[Findings], fields: Tensor, seeds: Sequence[int]) -> Tensor | None:
        if self.mask_sampler.layout is None:
            return None
        wanted = torch.zeros(len(findings), self.anatomy.num_classes)
        field_ml = float(np.prod(self.anatomy.field_mm)) / 1000
        for b, asked in enumerate(findings):
            for class_id, volume_ml in expected_volumes_ml(asked).items():
                wanted[b, class_id] = volume_ml / field_ml
        # Streams of their own: the label maps of models without layouts draw what they always drew.
        generators = [torch.Generator().manual_seed((int(s) + _LAYOUTS) % 2**63) for s in seeds]
        return self.mask_sampler.layout.draw(fields, wanted.to(fields.device), generators, self.config.layout_width)

    def constraints(self, findings: Sequence[Findings]) -> dict[str, Any]:
        """What holds `sample_masks` to findings: `forbidden` and `lean`, each (B, K, X) on its grid, and `volumes`."""
        shape, strength = self.mask_sampler.config.shape, self.config.size_strength
        width = shape[0]
        voxel_ml = float(np.prod(self.anatomy.field_mm)) / 1000 / float(np.prod(shape))
        return {
            "forbidden": torch.from_numpy(np.stack([forbidden_classes(f, width) for f in findings])),
            "lean": torch.from_numpy(np.stack([size_lean(f, width, strength) for f in findings])),
            "volumes": [size_bounds(f, width, voxel_ml, self.config.volume_ratio) for f in findings],
        }

    def sample_masks(
        self,
        condition: MaskCondition,
        generators: list[torch.Generator],
        num_steps: int | None = None,
        guidance: float | None = None,
        temperature: float = 1.0,
        forbidden: Tensor | None = None,
        lean: Tensor | None = None,
        volumes: Sequence[Sequence[VolumeBound]] | None = None,
        known: Tensor | None = None,
        place: Callable[[float, Tensor], Placement | None] | None = None,
        begin: tuple[Tensor, int] | None = None,
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
            volumes,
            known,
            place,
            None if self.config.volume_ratio is None else torch.tensor(self.config.volume_ratio),
            begin,
        )

    def sample_cts(
        self,
        label_maps: Tensor,
        tokens: Tensor,
        generators: list[torch.Generator],
        num_steps: int | None = None,
        styles: Sequence[NoiseStyle] | None = None,
        organ_hu: Tensor | None = None,
        findings: Sequence[Findings] | None = None,
    ) -> Tensor:
        """Stage 2: CTs (B, X, Y, Z) int16 HU of label maps (B, X, Y, Z) uint8, your own or stage 1's.

        Around their classes a model with a `tissue_network` first draws the rest of the body, or the fat in it.

        Each gets the noise of its style, and the HU of its organs as in `organ_hu` (B, K); both are drawn from its
        generator where none are given, the HU for a phase that is not told. With `hold_hu` in its configuration a model
        that is told HU also gives every organ exactly these, and takes away what makes it less even than organs are in
        the phase that its `findings` tell (any, without them); with `hold_contrast` bones and lungs get theirs too, by
        their contrast to soft tissue. Lesions have the attenuation told there (see
        `lesion_contrast`).
        """
        styles = self.styles(generators) if styles is None else styles
        organ_hu = self.organ_hu([""] * len(generators), generators) if organ_hu is None else organ_hu
        if organ_hu is not None:  # of your own for the classes alone: nothing is told of tissues
            untold = self.slice_generator.config.num_classes - organ_hu.shape[1]
            organ_hu = F.pad(organ_hu, (0, untold), value=torch.nan)
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
            class_hu=None if organ_hu is None else organ_hu.to(label_maps.device),
            noise_correlation=self.config.noise_correlation,
            seen=None if self.tissue_network is None else self.tissue_network.fill(label_maps, generators),
        )
        spacing, hu_range = self.anatomy.spacing_mm, self.anatomy.hu_range
        if organ_hu is not None and self.config.hold_hu:
            phases = [""] * len(cts) if findings is None else [f.phase for f in findings]
            usual = [self.slice_generator.hu_prior.usual_inhomogeneity(phase_row(p)) for p in phases]
            each = zip(cts, label_maps, organ_hu, usual, strict=True)  # tissues, last of the HU, are held to nothing
            cts = torch.stack([hold_organ_hu(*case, spacing, hu_range) for case in each])
            if self.config.hold_contrast:
                far = [self._of_far_tissues(*hu) for hu in zip(organ_hu, usual, strict=True)]
                cts = torch.stack([hold_contrast(*case, hu_range) for case in zip(cts, label_maps, far, strict=True)])
        if findings is not None and self.config.hold_hu:
            cts = torch.stack([self._lesions_held(*c) for c in zip(cts, label_maps, findings, generators, strict=True)])
        noisy = [with_noise(c, spacing, s, g, hu_range) for c, s, g in zip(cts, styles, generators, strict=True)]
        return torch.stack(noisy)

    def _of_far_tissues(self, organ_hu: Tensor, usual: Tensor) -> Tensor:
        """The HU (K,) of bones and lungs, which are of several tissues; NaN for all else, and for what is cut by HU."""
        prior = self.slice_generator.hu_prior
        held = far_from_soft_tissue(prior.mean[-1].float()) & (prior.known > 0) & usual[:, 0].to(prior.known).isinf()
        held[tissue_ids(self.anatomy)] = False
        return torch.where(held.to(organ_hu.device), organ_hu, torch.nan)

    def _lesions_held(self, ct: Tensor, labels: Tensor, findings: Findings, generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        if not bool((labels == self.anatomy.lesion_id).any()):
            return ct
        return torch.from_numpy(hold_lesion_hu(ct.cpu().numpy(), labels.cpu().numpy(), findings, rng)).to(ct)

    def styles(self, generators: list[torch.Generator]) -> list[NoiseStyle]:
        """A noise style a case, each from its own generator."""
        return [draw_style(g, tuple(self.config.noise_hu)) for g in generators]

    def organ_hu(
        self, phases: Sequence[str], generators: list[torch.Generator], asked: Mapping[str, float] | None = None
    ) -> Tensor | None:
        """Median HU (B, K) that the classes shall have in CTs of these phases ("": any), NaN for what is not told.
        Those of tissues follow where the model has some.

        Drawn from each case's generator, but for those `asked` by name. None where the model is not told HU; ModelError
        when some are asked all the same, or of a class that it is not told.
        """
        prior = self.slice_generator.hu_prior
        if prior is None:
            if asked:
                raise ModelError("this model is not told the HU of organs; train its slices again, or leave organ_hu.")
            return None
        rows = [phase_row(phase) for phase in phases]
        drawn = torch.stack([prior.draw(row, g) for row, g in zip(rows, generators, strict=True)])
        for name, hu in (asked or {}).items():
            known = {c.name for c in self.anatomy.classes if prior.known[c.id]}
            if name not in known:
                raise ModelError(
                    f"the HU of {name!r} cannot be asked for; of these they can: {', '.join(sorted(known))}."
                )
            drawn[:, self.anatomy.id_of(name)] = float(hu)
        return drawn

    def by_name(self, class_hu: Tensor) -> dict[str, float]:
        """Class -> HU of a row of `organ_hu`, those that it tells."""
        own = class_hu[: self.anatomy.num_classes]  # tissues follow: of no table, and not to be asked for
        return {c.name: round(float(hu), 1) for c, hu in zip(self.anatomy.classes, own, strict=True) if hu == hu}

    def read(self, draft: Draft, ct_hu: np.ndarray) -> dict[str, Any]:
        """What the second reader finds of a draft's label map in its CT (X, Y, Z), as provenance; {} without one."""
        least = self.config.get("least_read_dice")
        if self.second_reader is None or not least:
            return {}
        return {"second_read": second_read(self.second_reader, ct_hu, draft.label_map, self.anatomy, least)}
