"""What a watch makes of images: what is evaluated decides nothing, what differs between clients is noted."""

import torch
from torch import Tensor, nn

from fl_audit.federation.apps.outcome import seen_by
from fl_audit.federation.apps.watch import Watch


def pixels(count: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, side, side), generator=generator).float() / 255


class Mean(nn.Module):
    """Takes images of any size."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(images.mean((2, 3)))
        return logits


def test_evaluated_images_of_several_sizes_are_kept_like_the_first_and_decide_nothing() -> None:
    watch = Watch()
    with watch.hooked(), torch.no_grad():
        for images in (pixels(3, 8), pixels(2, 6), pixels(4, 8, seed=1)):
            Mean()(images)
    held = watch.held_out()
    assert held is not None
    assert held[0].shape == (7, 1, 8, 8)
    assert (watch.image_shape, watch.normalisation) == (None, None)
    assert isinstance(watch.pixels(pixels(2, 6) * 2 - 1), Tensor)  # training looks otherwise
    assert watch.image_shape == (1, 6, 6)


def test_clients_that_normalise_otherwise_are_noted() -> None:
    watch = Watch()
    for seed in range(3):
        assert isinstance(watch.pixels(pixels(2, 12, seed) * 2 - 1), Tensor)
    assert not seen_by(watch).other_norms
    seen = watch.pixels((pixels(2, 12, 5) - 0.5) / 0.6)  # fits in [-1, 1] as well
    assert isinstance(seen, Tensor)
    assert seen_by(watch).differing == [
        "clients normalise images differently, and all are attacked as one of them does it"
    ]
