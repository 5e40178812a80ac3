"""An attack of the user's own: the example, and what is wrong said plainly."""

from pathlib import Path

import pytest

from fl_audit.attacks import Attack, attacks
from fl_audit.core.errors import ConfigError
from tests.attacks.cases import CPU, make_case

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def _in_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_the_example_is_short_and_attacks() -> None:
    lines = (EXAMPLES / "your_own_attack.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) < 40
    attack = attacks.create("your_own_attack:FromGrey:iterations=40")
    assert attack.name == "your_own_attack:FromGrey"
    assert attack.params() == {"iterations": 40}
    case = make_case(labels=(1,))
    result = attack.run(case.update, case.knowledge, seed=0, device=CPU)
    assert (result.status, result.iterations) == ("done", 40)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("your_own_attack:nearly_grey", "subclass of"),
        ("your_own_attack:Absent", "no attribute"),
        ("no_such_module:FromGrey", "no module"),
        ("your_own_attack:FromGrey:iterations=0", "greater than or equal to 1"),
        ("your_own_attack:FromGrey:speed=2", "unknown parameter 'speed'"),
        ("fl_audit.attacks:Attack", "must define"),
        ("dlq", "Did you mean 'dlg'"),
    ],
)
def test_what_is_wrong_is_said(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        attacks.create(spec)
    assert Attack.name == ""
