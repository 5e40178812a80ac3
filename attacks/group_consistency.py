"""Group consistency: the restarts of one client look for the same images, so they learn from each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.attacks.priors import Penalty, squared_norm
from fl_audit.attacks.problem import Problem


@dataclass(frozen=True)
class GroupConsistency:
    """Mean squared distance of each restart to the consensus of its client's restarts, times ``weight``.

    Yin et al., "See through Gradients", CVPR 2021, https://arxiv.org/abs/2104.07586, section 3.4: the
    consensus is the mean over restarts after each is registered to their plain mean. Differs in: the distance
    is squared, so that a restart that agrees is not pushed around; registration is a shift by whole pixels,
    found by phase correlation, instead of RANSAC flow.

    Attributes:
        weight: factor; without further restarts the penalty is 0.
        shift: largest shift, in pixels each way, by which images are registered; 0: they are not.
    """

    weight: float
    shift: int = 0

    def bind(self, problems: Sequence[Problem], restarts: int) -> Penalty:
        """See `Prior`."""
        clients = len(problems)

        def penalty(images: Tensor) -> Tensor:
            grouped = images.view(clients, restarts, *images.shape[1:])
            target = consensus(grouped.detach(), self.shift)
            return self.weight * squared_norm((grouped - target).flatten(0, 1))

        return penalty


def consensus(images: Tensor, shift: int = 0) -> Tensor:
    """What the restarts of each client agree on, in each restart's own frame.

    Args:
        images: ``(clients, restarts, N, C, H, W)``.
        shift: largest shift by which images are registered.

    Returns:
        A shape that broadcasts to that of ``images``; the same shape where images are registered.
    """
    plain = images.mean(1, keepdim=True)
    if shift == 0:
        return plain
    steps = shifts(images, plain.expand_as(images), shift)
    aligned = _rolled(images, steps)
    return _rolled(aligned.mean(1, keepdim=True).expand_as(images), -steps)


def shifts(images: Tensor, reference: Tensor, largest: int) -> Tensor:
    """How many pixels to roll each image down and right so that it lies on the reference, int64 ``(..., 2)``.

    Phase correlation (Kuglin and Hines, 1975), summed over colours.

    Args:
        images: ``(..., C, H, W)``.
        reference: the same shape.
        largest: shifts up to this many pixels each way are compared.
    """
    product = torch.fft.fft2(reference) * torch.fft.fft2(images).conj()
    phases = product / product.abs().clamp(min=1e-12)
    correlation = torch.fft.ifft2(phases).real.sum(-3)
    height, width = correlation.shape[-2:]
    down, right = (_moves(min(largest, (side - 1) // 2), images.device) for side in (height, width))
    near = correlation[..., down[:, None] % height, right[None] % width]
    best = near.flatten(-2).argmax(-1)
    return torch.stack([down[best // len(right)], right[best % len(right)]], -1)


def _moves(largest: int, device: torch.device) -> Tensor:
    return torch.arange(-largest, largest + 1, device=device)


def _rolled(images: Tensor, steps: Tensor) -> Tensor:
    """Roll each image ``(..., C, H, W)`` by its steps ``(..., 2)``, without a loop over images."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) - steps[..., :1]) % height
    columns = (torch.arange(width, device=images.device) - steps[..., 1:]) % width
    rows = rows[..., None, :, None].expand(images.shape)
    columns = columns[..., None, None, :].expand(images.shape)
    return images.gather(-2, rows).gather(-1, columns)
