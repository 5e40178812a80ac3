"""ATS: clients train on images transformed by policies that were searched for to resist inversion."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from pydantic import Field, field_validator
from torch import Tensor

from fl_audit.core.training import Batch, Learner
from fl_audit.core.units import Defense
from fl_audit.strategies.defenses._policies import (
    BOTH,
    GEOMETRY,
    apply,
    draw_signs,
    parse_policies,
    transform,
)
from fl_audit.strategies.defenses._registry import defenses


@defenses.register("ats")
class AutomaticTransformation(Defense):
    """Train on images transformed by the policies that automatic transformation search found.

    Gao, Guo, Zhang, Qiu, Wen and Liu, "Privacy-preserving Collaborative Learning with Automatic
    Transformation Search", CVPR 2021 (https://arxiv.org/abs/2011.12505). A policy is a sequence of operations
    out of 50, by number, as in the paper's code; ``3-1-7`` and ``43-18-18`` are the two it found for
    CIFAR-100, ``both`` draws one of the two for each image. 3-1-7 shifts the image sideways by 45% of its
    width, changes contrast by a third and shifts it up or down by 10%; 43-18-18 shifts up or down by 15% and
    changes contrast by 39%, twice; directions are drawn anew for each image. Always applied, as in the code,
    where the search's probabilities are not. No guarantee; Balunović et al., "Bayesian Framework for Gradient
    Leakage", ICLR 2022 (https://arxiv.org/abs/2111.04706), section 5, find that it defends networks at the
    start of training little.

    **Reconstructions are graded against the original images**, not the transformed ones: a person may still
    recognise an image that was shifted, whatever PSNR says of it. The attacker is told nothing of the
    transformation. Differs in: the random crop and flip of the training code, ordinary augmentation, are left
    out. Images pass through 8 bits a channel.
    """

    acts_on = "training"
    paper = "Gao et al., Privacy-preserving Collaborative Learning, CVPR 2021"

    policy: str = Field(
        default="both",
        description="operations by number, e.g. 3-1-7; several policies as 3-1-7/43-18-18, or both for these",
    )

    @field_validator("policy")
    @classmethod
    def _known(cls, value: str) -> str:
        parse_policies(BOTH if value == "both" else value)
        return value

    def batch(self, batch: Batch, learner: Learner, *, rng: torch.Generator) -> Batch:
        """Each image transformed by a policy drawn for it."""
        del learner
        changed = [
            _pixels(transform(_image(pixels), self._chosen(rng), rng)) for pixels in batch.images.cpu()
        ]
        return replace(batch, images=torch.stack(changed).to(batch.images)) if changed else batch

    def traced(self, images: Tensor, *, rng: torch.Generator) -> "Traced":
        """What `batch` makes of images with an equal ``rng``, and where everything went."""
        made, moved, inside = [], [], []
        for pixels in images.cpu():
            policy = self._chosen(rng)
            signs = draw_signs(policy, rng)
            made.append(_pixels(apply(_image(pixels), policy, signs)))
            moved.append(_pixels(apply(_image(pixels), policy, signs, GEOMETRY)))
            white = _image(torch.ones_like(pixels))
            inside.append((_pixels(apply(white, policy, signs, GEOMETRY)) > 0.99).float().mean())
        return Traced(torch.stack(made), torch.stack(moved), torch.stack(inside))

    def _chosen(self, rng: torch.Generator) -> tuple[int, ...]:
        """One of the policies, drawn for an image."""
        policies = parse_policies(BOTH if self.policy == "both" else self.policy)
        return policies[int(torch.randint(len(policies), (1,), generator=rng))]


@dataclass(frozen=True)
class Traced:
    """Images after a policy, for judging what is left of them; N is not 0.

    Attributes:
        images: float32 ``(N, C, H, W)`` in [0, 1], what the client trains on.
        moved: the same with the geometry alone changed and the colours as they were.
        visible: share of the frame that shows a part of the original, ``(N,)`` in [0, 1].
    """

    images: Tensor
    moved: Tensor
    visible: Tensor


def _image(pixels: Tensor) -> Image.Image:
    """``(C, H, W)`` in [0, 1] as an 8-bit image."""
    values = (pixels * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)


def _pixels(image: Image.Image) -> Tensor:
    """``(C, H, W)`` float32 in [0, 1]."""
    values = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
    return values[None] if values.ndim == 2 else values.permute(2, 0, 1).contiguous()
