"""What training is made of: transformations, degradations, the oracle's grades, and training that learns."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import skimage.metrics
import torch
from torch import Tensor

from fl_audit.semsim import oracle, structure
from fl_audit.semsim.degradations import KINDS, degrade
from fl_audit.semsim.drawings import drawings
from fl_audit.semsim.evaluation import auc
from fl_audit.semsim.network import distance
from fl_audit.semsim.pairs import batches
from fl_audit.semsim.pictures import Pictures, split, without
from fl_audit.semsim.reconstructions import Reconstructions
from fl_audit.semsim.train import Schedule, train
from fl_audit.semsim.transforms import Transformed, random_transform

lfw_subset: Callable[[], np.ndarray] = skimage.data.lfw_subset
structural_similarity: Callable[..., float] = skimage.metrics.structural_similarity


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def faces() -> Tensor:
    grey = torch.from_numpy(lfw_subset()[:64]).float()[:, None]
    return torch.nn.functional.interpolate(grey, (32, 32), mode="bilinear").expand(-1, 3, -1, -1).clamp(0, 1)


def in_place(originals: Tensor, reconstructions: Tensor) -> Tensor:
    """The oracle's grades where the client changed nothing."""
    whole = torch.ones(len(originals))
    return oracle.grade(originals, originals, reconstructions, whole, whole)


def test_transformations_stay_in_range_and_follow_the_generator(faces: Tensor) -> None:
    one, two, other = (random_transform(faces, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)
    assert float(one.images.min()) >= 0
    assert float(one.images.max()) <= 1
    still = random_transform(faces, rng(), share=0.0)
    assert torch.equal(still.images, faces)
    assert still.visible.tolist() == [1.0] * len(faces)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS], ids=lambda kind: kind.__name__)
def test_a_degradation_of_no_strength_changes_little_and_a_full_one_much(kind: object, faces: Tensor) -> None:
    assert callable(kind)
    none, full = torch.zeros(64, 1, 1, 1), torch.ones(64, 1, 1, 1)
    light, heavy = (in_place(faces, kind(faces, s, rng()).clamp(0, 1)) for s in (none, full))
    assert light.mean() > 0.8
    assert heavy.mean() < light.mean() - 0.1


def test_the_grade_falls_with_strength(faces: Tensor) -> None:
    means = [
        float(in_place(faces, degrade(faces, rng(), torch.full((64,), strength))).mean())
        for strength in (0.0, 0.3, 0.6, 1.0)
    ]
    assert means[0] > 0.9
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.35


def test_structure_is_ssim_and_bands(faces: Tensor) -> None:
    spoiled = degrade(faces, rng(), torch.full((64,), 0.5))
    x, y = (images[:8].double().numpy() for images in (faces, spoiled))
    expected = [
        structural_similarity(
            a,
            b,
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(x, y, strict=True)
    ]
    found = structure.ssim(faces[:8].double(), spoiled[:8].double())
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    duller = 0.4 + 0.6 * (faces - faces.mean((1, 2, 3), keepdim=True))
    assert structure.ssim(faces, structure.even(faces, duller)).mean() > 0.95
    assert in_place(faces, duller).mean() > 0.85
    assert structure.ssim(faces, duller).mean() < 0.9
    grey = torch.full_like(faces, 0.5)
    assert in_place(faces, grey).max() < 0.35
    assert in_place(faces, 1 - faces).max() < oracle.UNRECOGNISABLE


def test_what_the_original_does_not_show_is_not_missed(faces: Tensor) -> None:
    few = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(faces, 4), (32, 32), mode="bilinear")
    faded = 0.5 + 0.25 * (faces - faces.mean((1, 2, 3), keepdim=True))
    whole = torch.ones(64)
    for originals in (few, faded):
        assert in_place(originals, originals).min() > oracle.RECOGNISABLE
        assert structure.transform_grade(Transformed(originals, originals, whole)).min() > 0.95
        assert in_place(originals, torch.rand(originals.shape, generator=rng())).max() < 0.15
        assert in_place(originals, originals.roll(1, 0)).mean() < oracle.UNRECOGNISABLE
    flat = torch.full_like(faces, 0.3)
    assert in_place(flat, flat).max() == 0  # there is nothing to recognise
    assert structure.transform_grade(Transformed(flat, flat, whole)).max() == 0


def test_drawings_repeat_and_resemble_their_kin() -> None:
    one, two = (drawings(rng(5), count=60, classes=6) for _ in range(2))
    assert torch.equal(one.images, two.images)
    assert (one.images.dtype, one.images.shape) == (torch.uint8, (60, 3, 32, 32))
    assert one.classes.bincount().tolist() == [10] * 6
    channels = one.floats(torch.arange(60)).flatten(2)
    ink = channels[torch.arange(60), channels.std(2).argmax(1)]
    assert (ink.std(1) > 0.05).double().mean() > 0.95
    # Which colours were drawn says nothing about the strokes: compare them by their absolute correlation.
    alike = torch.corrcoef(ink).abs()
    same = one.classes[:, None] == one.classes[None]
    assert alike[same & ~torch.eye(60, dtype=torch.bool)].mean() > 1.5 * alike[~same].mean()


def test_data_sets_are_drawn_by_weight(faces: Tensor) -> None:
    images = (faces * 255).round().to(torch.uint8)
    light = Pictures("a", images, torch.zeros(64, dtype=torch.int64), weight=0.25)
    black = Pictures("b", torch.zeros_like(images), torch.zeros(64, dtype=torch.int64))
    source = batches([light, black], None, rng(), size=400)
    shown = next(source).originals.flatten(1).std(1) > 0.01
    assert float(shown.double().mean()) == pytest.approx(0.2, abs=0.06)


def test_what_the_client_did_is_graded_with_the_geometry_undone(faces: Tensor) -> None:
    whole = torch.ones(64)
    for victim in (1 - faces, 0.5 * faces + 0.2, faces):
        assert structure.transform_grade(Transformed(victim, faces, whole)).mean() > 0.9
    assert structure.transform_grade(Transformed(torch.zeros_like(faces), faces, whole)).max() < 0.01
    assert structure.transform_grade(Transformed(faces, faces, 0.1 * whole)).max() == 0
    assert oracle.labels(torch.tensor([0.0, 0.375, 0.5, 0.625, 1.0])).tolist() == [0, 0, 0.5, 1, 1]


def test_pictures_of_the_judged_pairs_are_left_out(faces: Tensor) -> None:
    own = Pictures("faces", (faces * 255).round().to(torch.uint8), torch.arange(64))
    near = (own.images[5:8].int() + 2).clamp(max=255).to(torch.uint8)
    assert without(own, near).classes.tolist() == [n for n in range(64) if n not in (5, 6, 7)]
    more, fewer = split(own, 0.25, rng())
    assert (len(more.images), len(fewer.images)) == (48, 16)
    assert sorted(more.classes.tolist() + fewer.classes.tolist()) == list(range(64))


def test_a_short_training_learns_and_repeats(faces: Tensor) -> None:
    own = Pictures("faces", (faces * 255).round().to(torch.uint8), torch.zeros(64, dtype=torch.int64))

    def trained() -> torch.nn.Module:
        source = batches([own], None, rng(3), size=16)
        return train(source, backbone="lenet", schedule=Schedule(steps=30, rate=3e-3), seed=1)

    one, two = trained(), trained()
    for left, right in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(left, right)
    assert not one.training
    held = list(itertools.islice(batches([own], None, rng(4), size=64), 2))
    found = torch.cat([distance(one, batch.originals, batch.reconstructions[:, 0]) for batch in held])
    answers = oracle.labels(torch.cat([batch.grades[:, 0] for batch in held]))
    assert auc(-found[answers == 1], -found[answers == 0]) > 0.65


def test_real_reconstructions_are_varied_alike_and_drawn_evenly(faces: Tensor) -> None:
    images = (faces * 255).round().to(torch.uint8)
    noise = torch.randint(256, images.shape, generator=rng(), dtype=torch.uint8)
    good = torch.arange(64) < 8
    made = torch.where(good.view(-1, 1, 1, 1), images, noise)
    real = Reconstructions(images, images, made, torch.ones(64), torch.ones(64))
    chances = real.weights()
    assert float(chances[good].sum()) == pytest.approx(float(chances[~good].sum()))
    varied = real.varied(rng(1))
    assert torch.equal(varied.original[good], varied.reconstruction[good])
    assert torch.equal(varied.original, varied.victim)
    assert not torch.equal(varied.original, images)
    torch.testing.assert_close(varied.original.float().mean((1, 2, 3)), images.float().mean((1, 2, 3)))
