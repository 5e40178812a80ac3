"""Fixtures of the tests of attacks."""

from collections.abc import Callable

import pytest

from tests.attacks.cases import NETS, Case, make_case
from tests.attacks.norms import (
    deep_norm_net,
)


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    """Makes cases of `deep_norm_net`."""
    monkeypatch.setitem(NETS, "deep norm", deep_norm_net)
    return lambda **changes: make_case("deep norm", **changes)
