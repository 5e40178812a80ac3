"""Presets adapt to what the update shows: noise, pruning, batch-norm statistics."""

from dataclasses import replace

import pytest
import torch
from skimage.data import astronaut
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from fl_audit.attacks import attacks
from fl_audit.attacks.bn_prior import BatchNormPrior
from fl_audit.attacks.inverting_gradients import InvertingGradients
from fl_audit.attacks.known_entries import KnownEntries
from fl_audit.attacks.objectives import Cosine
from fl_audit.attacks.priors import TotalVariation
from fl_audit.attacks.problem import Problem, prepare
from fl_audit.core.progress import Progress
from fl_audit.core.types import Reconstruction, TrainingDetails
from tests.attacks.cases import CPU, NETS, Case, make_case, pooling_net


def problem_of(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="t", device=CPU, progress=Progress())


def run(spec: str, case: Case) -> Reconstruction:
    result = attacks.create(spec).run(case.update, case.knowledge, seed=0, device=CPU)
    assert (result.status, result.reason) == ("done", None)
    return result


def changed(case: Case, *, noise: float = 0.0, keep: float = 1.0) -> Case:
    """The case with noise of that many times the update's norm, and with only the largest changes kept."""
    generator = torch.Generator().manual_seed(5)
    change = {name: case.update.received[name] - sent for name, sent in case.update.sent.items()}
    entries = sum(value.numel() for value in change.values())
    std = noise * float(sum(value.square().sum() for value in change.values()) / entries) ** 0.5

    def one(value: Tensor) -> Tensor:
        value = value + std * torch.randn(value.shape, generator=generator)
        limit = value.abs().flatten().kthvalue(max(int((1 - keep) * value.numel()), 1)).values
        return value if keep == 1.0 else torch.where(value.abs() > limit, value, 0)

    received = {name: sent + one(change[name]) for name, sent in case.update.sent.items()}
    return replace(case, update=replace(case.update, received=received))


def weight_of(case: Case, attack: InvertingGradients) -> float:
    (prior,) = attack._parts(problem_of(case)).priors
    assert isinstance(prior, TotalVariation)
    return prior.weight


def test_total_variation_weighs_more_the_more_noise_there_is() -> None:
    case, attack = make_case(shape=(3, 16, 16), labels=(1,), classes=10), InvertingGradients()
    assert weight_of(case, attack) == attack.tv
    weights = [weight_of(changed(case, noise=noise), attack) for noise in (0.7, 10.0)]
    assert attack.tv + 0.05 < weights[0] < weights[1] <= attack.tv + attack.noisy_tv
    assert InvertingGradients(tv=0, noisy_tv=0)._parts(problem_of(case)).priors == ()


@pytest.fixture
def photo() -> Tensor:
    """A photograph, ``(1, 3, 32, 32)``."""
    picture = astronaut()[:256, :256]  # type: ignore[no-untyped-call]
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    return interpolate(pixels, size=(32, 32), mode="area")


def test_max_pooling_in_a_small_network_makes_smoothness_weigh_more(photo: Tensor) -> None:
    case = make_case("pooling", shape=(3, 32, 32), labels=(1,), classes=4, images=photo)
    attack = InvertingGradients()
    assert weight_of(case, attack) == attack.tv * attack.pooled
    assert weight_of(case, InvertingGradients(pooled=1)) == attack.tv
    errors = []
    for factor in (1, 50):
        images = run(f"inverting-gradients:iterations=100,pooled={factor}", case).images
        assert images is not None
        errors.append(float((images - photo).square().mean()))
    assert errors[1] < errors[0] / 2


def test_edges_lie_at_one_place_in_all_colours_unless_statistics_tell(
    photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETS, "normed pooling", normed_pooling_net)

    def colours(net: str) -> list[str]:
        training = TrainingDetails(train_mode=True)
        case = make_case(net, shape=(3, 32, 32), labels=(1,), classes=4, images=photo, training=training)
        priors = InvertingGradients()._parts(problem_of(case)).priors
        return [prior.colours for prior in priors if isinstance(prior, TotalVariation)]

    assert colours("pooling") == ["opponents"]
    assert colours("small") == colours("normed pooling") == ["channels"]


def normed_pooling_net(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A small network with batch norm: what it computes says nothing of how bright an image is."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(shape[1] * shape[2], classes),
    )


def test_statistics_that_clients_give_away_are_matched(
    photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETS, "normed pooling", normed_pooling_net)

    def trained(train: bool) -> Case:
        training = TrainingDetails(train_mode=train)
        return make_case(
            "normed pooling", shape=(3, 32, 32), labels=(1,), classes=9, images=photo, training=training
        )

    def matches(case: Case) -> bool:
        priors = InvertingGradients()._parts(problem_of(case)).priors
        return any(isinstance(prior, BatchNormPrior) for prior in priors)

    case = trained(True)
    assert matches(case)
    assert not matches(trained(False))
    assert not matches(changed(case, noise=3.0)), "statistics under noise would mislead"
    errors = []
    for weight in (0, InvertingGradients().batch_norm):
        images = run(f"inverting-gradients:iterations=60,batch_norm={weight}", case).images
        assert images is not None
        errors.append(float((images - photo).square().mean()))
    assert errors[1] < 0.6 * errors[0]


class PoolingByCall(nn.Module):
    """Max pooling as many write it: no layer shows it."""

    def forward(self, values: Tensor) -> Tensor:
        return max_pool2d(values, 2)


def test_max_pooling_by_function_call_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_call(shape: tuple[int, int, int], classes: int) -> nn.Module:
        layers = list(pooling_net(shape, classes))
        return nn.Sequential(*[PoolingByCall() if isinstance(x, nn.MaxPool2d) else x for x in layers])

    monkeypatch.setitem(NETS, "by call", by_call)
    attack = InvertingGradients()
    assert weight_of(make_case("by call"), attack) == attack.tv * attack.pooled
    assert weight_of(make_case("small"), attack) == attack.tv


@pytest.mark.parametrize(("zeros", "masked"), [("auto", True), ("missing", True), ("evidence", False)])
def test_zeros_of_a_pruned_update_are_no_evidence_unless_asked(zeros: str, masked: bool) -> None:
    whole = make_case(shape=(3, 16, 16), labels=(1,), classes=10)
    attack = attacks.create(f"inverting-gradients:zeros={zeros}")
    assert isinstance(attack, InvertingGradients)
    pruned = changed(whole, keep=0.1)
    assert isinstance(attack._parts(problem_of(pruned)).objective, KnownEntries if masked else Cosine)
    assert weight_of(pruned, attack) == attack.tv, "what is left is exact"
    expected = KnownEntries if zeros == "missing" else Cosine
    assert isinstance(attack._parts(problem_of(whole)).objective, expected)


def test_a_search_that_only_fits_noise_is_given_up() -> None:
    case = make_case(shape=(3, 16, 16), labels=(1,), classes=10)
    assert run("inverting-gradients:iterations=300", changed(case, noise=30.0)).iterations < 300
    assert run("inverting-gradients:iterations=150", case).iterations == 150


def test_batch_norm_statistics_help_a_batch_that_the_gradient_alone_leaves_open() -> None:
    training = TrainingDetails(batch_size=4, train_mode=True)
    case = make_case("norm-without-dropout", labels=(0, 0, 1, 1), training=training)
    errors = {}
    for weight in (0.0, 1.0):
        spec = f"see-through-gradients:iterations=100,restarts=1,batch_norm={weight}"
        result = run(spec, case)
        errors[weight] = bn_distance(result.images, case)
    assert errors[1.0] < 0.5 * errors[0.0]


def bn_distance(images: Tensor | None, case: Case) -> float:
    """Difference of the first layer's mean over the batch, the client's own against the reconstruction's."""
    assert images is not None
    assert case.knowledge.model is not None
    model = case.knowledge.model
    model.load_state_dict(case.update.sent)
    first = model.get_submodule("0")
    with torch.no_grad():
        own, found = first(case.images), first(images)
    return float((own.mean((0, 2, 3)) - found.mean((0, 2, 3))).norm())


def test_a_model_without_batch_norm_is_attacked_without_it_and_the_finding_says_so() -> None:
    result = run("see-through-gradients:iterations=3", make_case(labels=(0, 1)))
    assert any("batch-norm statistics are not used: the model has no batch norm" in n for n in result.notes)


def test_idlg_reads_the_label_and_recovers_one_image() -> None:
    case = make_case(labels=(3,), classes=10, grant_labels=False)
    result = run("idlg", case)
    assert result.labels is not None
    assert result.labels.tolist() == [3]
    assert result.images is not None
    assert float((result.images - case.images).square().mean()) < 1e-3
