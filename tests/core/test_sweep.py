import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_audit.core.errors import ConfigError
from fl_audit.core.registry import parse_params
from fl_audit.core.sweep import components, expand, expand_all


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("dp", ["dp"]),
        ("dp:1", ["dp:1"]),
        ("dp:noise_multiplier=0.1,0.3,1,3", [f"dp:noise_multiplier={v}" for v in ("0.1", "0.3", "1", "3")]),
        ("prune:0.5,0.9", ["prune:0.5", "prune:0.9"]),
        ("prune:0.5, 0.9", ["prune:0.5", "prune:0.9"]),
        (
            "prune:per=layer,global,fraction=0.9",
            ["prune:per=layer,fraction=0.9", "prune:per=global,fraction=0.9"],
        ),
        ("dp:1,2,clipping_norm=3", ["dp:1,clipping_norm=3", "dp:2,clipping_norm=3"]),
        ("dp:a=1,2,b=3,4", ["dp:a=1,b=3", "dp:a=1,b=4", "dp:a=2,b=3", "dp:a=2,b=4"]),
        ("clip:1+prune:0.5,0.9", ["clip:1+prune:0.5", "clip:1+prune:0.9"]),
        ("clip:1,2+prune:0.5,0.9", [f"clip:{c}+prune:{p}" for c in "12" for p in ("0.5", "0.9")]),
        ("clip:1 + prune:0.5,0.9", ["clip:1 + prune:0.5", "clip:1 + prune:0.9"]),
        ("dp:1e+3,2e+3", ["dp:1e+3", "dp:2e+3"]),
        ("ats:3-1-7,43-18-18", ["ats:3-1-7", "ats:43-18-18"]),
        ("mine:Own:1,2", ["mine:Own:1", "mine:Own:2"]),
        ("mine:Own:norm=1,2", ["mine:Own:norm=1", "mine:Own:norm=2"]),
    ],
)
def test_a_list_of_values_stands_for_one_spec_each(spec: str, expected: list[str]) -> None:
    assert expand(spec) == expected


VALUE = st.from_regex(r"[a-z0-9.+ -]{0,8}", fullmatch=True)


@given(
    lone=st.none() | VALUE,
    named=st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), VALUE, max_size=3),
)
def test_what_was_valid_before_means_what_it_meant(lone: str | None, named: dict[str, str]) -> None:
    parts = [*([] if lone is None else [lone]), *(f"{key}={value}" for key, value in named.items())]
    spec = "dp" + (":" + ",".join(parts) if parts else "")
    try:
        parse_params("defense", spec, spec.partition(":")[2], ["first"])
    except ConfigError:
        return
    assert expand(spec) == [spec]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dp:0.1,", "a value is missing"),
        ("dp:0.1,,1", "a value is missing"),
        ("dp:a=,1", "a value is missing"),
        ("dp:0.1,1,0.1", "0.1 is listed twice"),
        ("dp:" + ",".join(map(str, range(101))), "101 settings"),
        ("dp:a=" + ",".join(map(str, range(11))) + ",b=" + ",".join(map(str, range(10))), "110 settings"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        expand(spec)


def test_a_setting_may_not_come_from_two_specs() -> None:
    assert expand_all(["dp:1,2", "prune:0.9"]) == ["dp:1", "dp:2", "prune:0.9"]
    with pytest.raises(ConfigError, match="dp:2 is listed twice"):
        expand_all(["dp:1,2", "dp:2"])


def test_a_plus_before_a_letter_separates_the_components_of_a_stack() -> None:
    assert components("clip:1+prune:0.9+noise:1e+3") == ["clip:1", "prune:0.9", "noise:1e+3"]
