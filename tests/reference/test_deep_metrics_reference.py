"""LPIPS against the ``lpips`` package, FID against a plain forward pass, on random backbones.

The trained backbones cannot be had offline. Each test writes a backbone as torchvision would have
downloaded it, points the table of weight files at it, and builds the oracle from the same backbone.
"""

import hashlib
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import lpips
import numpy as np
import pytest
import torch
import torchvision.models as zoo
from torch import nn

from fl_audit.core.errors import MissingWeightsError
from fl_audit.core.seeding import seeded_globals
from fl_audit.metrics import _weights, download_weights, frechet_distance, metrics
from fl_audit.metrics._weights import Network, WeightFile

TOLERANCE = 1e-5


def keep(monkeypatch: pytest.MonkeyPatch, folder: Path, network: Network, model: nn.Module) -> Path:
    """Write ``model`` where weights are looked for; returns a copy that a download can fetch."""
    source = folder / "source"
    source.mkdir(exist_ok=True)
    torch.save(model.state_dict(), source / "net.pth")
    digest = hashlib.sha256((source / "net.pth").read_bytes()).hexdigest()
    named = (source / "net.pth").rename(source / f"net-{digest[:8]}.pth")
    table = MappingProxyType({network: WeightFile("random", named.as_uri())})
    monkeypatch.setattr(_weights, "weight_files", lambda: table)
    monkeypatch.setattr("fl_audit.metrics.perceptual.weight_files", lambda: table)
    monkeypatch.setattr("fl_audit.metrics.frechet.weight_files", lambda: table)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))
    return named


def pair(channels: int, size: int, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, channels, size, size, generator=generator)
    y = (x + 0.2 * torch.randn(x.shape, generator=generator)).clamp(0, 1)
    return x, y


def small_vgg() -> nn.Module:
    """VGG-16 without its classifier, which LPIPS does not use and which is most of its size."""
    layers = zoo.vgg.make_layers(zoo.vgg.cfgs["D"], batch_norm=False)
    return nn.Sequential(OrderedDict(features=layers))


@pytest.mark.parametrize(
    ("net", "make"), [("alex", zoo.alexnet), ("squeeze", zoo.squeezenet1_1), ("vgg", small_vgg)]
)
def test_lpips_is_the_packages(
    net: Network, make: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with seeded_globals(1, "oracle"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        model = make()
    for name, tensor in model.get_submodule("features").state_dict().items():
        found = [key for key in oracle.net.state_dict() if key.split(".", 1)[1] == name]
        assert len(found) == 1
        tensor.copy_(oracle.net.state_dict()[found[0]])
    keep(monkeypatch, tmp_path, net, model)
    metric = metrics.create(f"lpips:net={net}")
    reason = metric.unavailable()
    assert reason is not None
    assert "not on this machine" in reason
    assert "fl-audit doctor --download" in reason

    assert download_weights([net]) == [_weights.weight_files()[net].path]
    assert metric.unavailable() is None
    state = torch.random.get_rng_state()
    for channels, size in ((3, 64), (3, 32), (1, 40)):
        x, y = pair(channels, size)
        with torch.no_grad():
            wide = [images.expand(-1, 3, -1, -1) for images in (x, y)]
            expected = oracle(wide[0], wide[1], normalize=True).flatten().tolist()
        assert metric.score(x, y).tolist() == pytest.approx(expected, abs=TOLERANCE)
        assert min(expected) > 100 * TOLERANCE
        assert metric.score(x, x).tolist() == [0, 0, 0]
    named = metrics.create("lpips" if net == "alex" else f"lpips-{net}")
    assert torch.equal(named.score(*pair(3, 32)), metric.score(*pair(3, 32)))
    small = metric.score(*pair(1, 8))
    assert bool((small > 0).all())
    assert torch.equal(state, torch.random.get_rng_state()), "grading drew from the global generator"


def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, tmp_path, "squeeze", nn.Linear(2, 2))
    (file,) = download_weights(["squeeze"])
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    scores = metrics.create("lpips:squeeze").grade(*pair(3, 32))
    assert bool(scores.values.isnan().all())
    assert all(reason is not None and "damaged" in reason for reason in scores.reasons)
    with pytest.raises(MissingWeightsError, match="damaged"):
        _weights.load_weights("squeeze")
    assert download_weights(["squeeze"]) == [file], "a damaged file is fetched again"
    assert metrics.create("lpips:squeeze").unavailable() is None


def test_only_usable_weights_are_listed_with_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(monkeypatch, tmp_path, "squeeze", nn.Linear(2, 2))
    packaged = _weights.installed_weights()
    (path,) = download_weights(["squeeze"])
    own = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    assert _weights.installed_weights() == packaged | own
    path.unlink()
    assert _weights.installed_weights() == packaged


def test_a_download_that_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = keep(monkeypatch, tmp_path, "alex", nn.Linear(2, 2))
    source.write_bytes(b"something else")
    with pytest.raises(MissingWeightsError, match=r"downloading random .* failed .*put the file at"):
        download_weights(["alex"])
    assert not _weights.weight_files()["alex"].path.exists()
    source.unlink()
    with pytest.raises(MissingWeightsError, match="failed"):
        download_weights(["alex"])


def test_fid_uses_pooled_inception_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded_globals(0, "inception"):
        model = zoo.inception_v3(weights=None, init_weights=False, transform_input=False).eval()
    keep(monkeypatch, tmp_path, "inception", model)
    download_weights(["inception"])
    x, y = pair(1, 24, n=3)
    features = []
    model.avgpool.register_forward_hook(lambda _m, _i, out: features.append(out.flatten(1)))
    with torch.no_grad():
        for images in (x, y):
            large = nn.functional.interpolate(images, (299, 299), mode="bilinear", antialias=True)
            colour = np.repeat(large.numpy(), 3, axis=1).transpose(0, 2, 3, 1)
            ready = (colour - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
            model(torch.from_numpy(ready.transpose(0, 3, 1, 2).astype(np.float32)))
    expected = float(frechet_distance(features[0], features[1]))
    value = metrics.create("fid:min_images=3").score(x, y)
    assert value.tolist() == pytest.approx([expected], rel=1e-3)
    assert expected > 0
    scores = metrics.create("fid").grade(x, y)
    assert scores.values.isnan().tolist() == [True]
    assert scores.reasons == ("3 images are too few for a Fréchet distance: at least 50",)
