from typing import Literal

import pytest
from pydantic import Field

from fl_audit.core.errors import ConfigError
from fl_audit.core.registry import Registry, Unit, import_object, is_import_spec

things: Registry[Unit] = Registry("thing")


@things.register("noise")
class Noise(Unit):
    """Adds noise.

    More.
    """

    sigma: float = Field(gt=0)
    kind: Literal["gauss", "laplace"] = "gauss"


@things.register("none")
class Nothing(Unit):
    """Does nothing."""


def test_lone_value_sets_the_first_parameter() -> None:
    assert things.create("noise:0.5") == Noise(sigma=0.5)
    assert things.create("noise:sigma=0.5,kind=laplace") == Noise(sigma=0.5, kind="laplace")
    assert things.create("none") == Nothing()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nois:1", ["unknown thing 'nois'", "Did you mean 'noise'", "noise, none"]),
        ("noise", ["sigma is required"]),
        ("noise:-1", ["sigma", "greater than 0", "'-1'"]),
        ("noise:nan", ["sigma", "finite"]),
        ("noise:sigm=1", ["unknown parameter 'sigm'", "Did you mean 'sigma'"]),
        ("noise:1,2", ["expected key=value", "'2'"]),
        ("noise:1,sigma=2", ["given twice"]),
        ("noise:1,kind=cauchy", ["gauss", "laplace", "cauchy"]),
        ("none:3", ["none:3", "expected key=value"]),
    ],
)
def test_mistakes_say_what_was_expected_and_what_came(spec: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        things.create(spec)
    for word in words:
        assert word in str(caught.value)


def test_registering_twice_or_badly_raises() -> None:
    with pytest.raises(ValueError, match="twice"):
        things.register("noise")(Nothing)
    with pytest.raises(ValueError, match="kebab"):
        things.register("Noise")


def test_a_unit_shows_its_parameters() -> None:
    assert repr(Noise(sigma=2)) == "Noise(sigma=2.0, kind='gauss')"
    assert Noise(sigma=2).params() == {"sigma": 2.0, "kind": "gauss"}
    assert Noise.summary() == "Adds noise."


def test_importing_by_name() -> None:
    assert import_object("math:pi", "number") == pytest.approx(3.14159, abs=1e-4)
    with pytest.raises(ConfigError, match="no module 'matth'"):
        import_object("matth:pi", "number")
    with pytest.raises(ConfigError, match="no attribute 'pie'"):
        import_object("math:pie", "number")
    assert is_import_spec("a.b:C")
    assert not is_import_spec("photos.zip:inner/folder")
