import builtins
from types import ModuleType

import pytest

from fl_audit.core import compat
from fl_audit.core.errors import AuditError


def test_the_installed_pair_fits() -> None:
    compat.check_torch_pair()


def test_a_mismatched_pair_says_so_and_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return builtins.__import__(name)

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(AuditError) as caught:
        compat.check_torch_pair()
    for words in ("does not work with torch", "nms", "released in pairs", "pip install"):
        assert words in str(caught.value)
