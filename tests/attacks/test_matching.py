"""Arrays of an update find their entry of the model, however an app names and picks them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fl_audit.attacks._matching import match_arrays
from fl_audit.core.errors import ConfigError

HEAD = {"heads.head.weight", "heads.head.bias"}


def model(*, frozen: bool = True) -> nn.Module:
    net = nn.Module()
    net.body = nn.Linear(6, 4)
    net.heads = nn.Sequential()
    net.heads.add_module("head", nn.Linear(4, 3))
    net.body.requires_grad_(not frozen)
    return net


def numbered(values: list[Tensor]) -> dict[str, Tensor]:
    return {str(place): value for place, value in enumerate(values)}


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (lambda net: net.heads.state_dict(), HEAD),
        (lambda net: net.heads.head.state_dict(), HEAD),
        (lambda net: net.heads.state_dict(prefix="heads."), HEAD),
        (lambda net: numbered(list(net.heads.state_dict().values())), HEAD),
        (lambda net: nn.DataParallel(net).state_dict(), {*HEAD, "body.weight", "body.bias"}),
        (lambda net: numbered(list(net.state_dict().values())), {*HEAD, "body.weight", "body.bias"}),
    ],
    ids=["of a part", "of one layer", "full names", "numbered", "wrapped", "all numbered"],
)
def test_a_part_of_the_model_is_found(
    sent: Callable[[nn.Module], dict[str, Tensor]], wanted: set[str]
) -> None:
    net = model()
    arrays = sent(net)
    found = match_arrays(arrays, net, [])
    assert set(found) == wanted
    assert all(torch.equal(net.state_dict()[ours], arrays[theirs]) for ours, theirs in found.items())


def test_layers_that_clients_keep_to_themselves_are_named() -> None:
    net = model(frozen=False)
    body = {name: value for name, value in net.state_dict().items() if name.startswith("body.")}
    with pytest.raises(ConfigError, match="the clients train heads.head.weight, heads.head.bias without"):
        match_arrays(body, net, [])


def test_no_array_at_all_fits_no_model() -> None:
    with pytest.raises(ConfigError, match="it has 0 arrays"):
        match_arrays({}, model(), [])
