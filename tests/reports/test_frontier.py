"""The frontier on cases whose answer can be read off by hand."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from fl_audit.cli._guarantee import guarantee
from fl_audit.metrics import wilson
from fl_audit.reports.families import Described, family, find_sweeps, settings_in_words
from fl_audit.reports.frontier import frontier_of, level, pareto
from fl_audit.reports.schema import (
    Controls,
    GuessFacts,
    GuessSummary,
    MetricStats,
    Summary,
    Utility,
    read_summary,
    write_summary,
)
from fl_audit.reports.summarise import summarise
from tests.reports import builders
from tests.reports.builders import control, defense, facts, failure, finding

IMAGES = 18
GUESSED_NONE = GuessFacts(kind="mean-image", scores={"mse": [0.1] * 18}, recognisable=[False] * 18)
GUESSED_TWO = GuessFacts(
    kind="mean-image", scores={"mse": [0.1] * 18}, recognisable=[True] * 2 + [False] * 16
)
POWER = control(*[0.9] * 6)


def audited(
    *settings: tuple[str, int, float | None],
    guess: GuessFacts | None = GUESSED_NONE,
    positive: list[object] | None = None,
    lost: int = 0,
    params: Mapping[str, Mapping[str, object]] | None = None,
) -> Summary:
    """Each setting: name, how many of 18 images are recognised, accuracy. ``lost``: images not graded."""
    lines = list(POWER if positive is None else positive)
    for name, recognised, _ in settings:
        for image in range(IMAGES - lost):
            lines.append(finding(name, 1 + image // 6, image % 6, ssim=0.9 if image < recognised else 0.1))
        lines += [failure(name, 1 + image // 6, image % 6) for image in range(IMAGES - lost, IMAGES)]
    described = [
        defense(name, utility=Utility(accuracy=accuracy), params=(params or {}).get(name, {}))
        for name, _, accuracy in settings
    ]
    return summarise(lines, facts(), described, [] if guess is None else [guess])  # type: ignore[arg-type]


def test_the_pareto_front_of_a_case_by_hand() -> None:
    points = [
        (1.0, 0.92),  # on it: nothing is more accurate
        (1.0, 0.90),  # worse in one, equal in the other
        (0.5, 0.91),  # on it
        (0.5, 0.91),  # equal: on it too
        (0.5, 0.80),
        (0.0, 0.60),  # on it: nothing leaks less
        (0.0, 0.50),
        (None, 0.99),
        (0.0, None),
    ]
    assert pareto(points) == [True, False, True, True, False, True, False, False, False]
    assert pareto([]) == []


def test_the_weakest_setting_costs_least_of_those_at_the_level_of_guesses() -> None:
    found = frontier_of(
        audited(
            ("none", 18, 0.92), ("dp:1", 5, 0.8), ("dp:3", 0, 0.6), ("dp:10", 0, 0.4), ("prune:0.99", 0, 0.7)
        )
    )
    assert [point.level for point in found.points] == ["above", "above", "guesses", "guesses", "guesses"]
    assert found.weakest == 4
    assert "is prune:0.99: 0 of 18" in found.conclusion
    assert "22 points below no defense" in found.conclusion
    assert "no differential-privacy guarantee" in found.conclusion
    assert [point.front for point in found.points] == [True, True, False, False, True]


def test_of_equal_cost_the_smaller_epsilon_is_taken() -> None:
    summary = audited(("none", 18, 0.9), ("a", 0, 0.7), ("b", 0, 0.7))
    defenses = [
        summary.defenses[0],
        summary.defenses[1],
        summary.defenses[2].model_copy(update={"epsilon": 3.0}),
    ]
    found = frontier_of(summary.model_copy(update={"defenses": defenses}))
    assert found.weakest == 2
    assert "epsilon is 3.00" in found.conclusion
    assert "against the server" not in found.conclusion


def test_an_epsilon_that_does_not_hold_against_the_server_says_so() -> None:
    summary = audited(("none", 18, 0.9), ("dp-server", 0, 0.7))
    central = summary.defenses[1].model_copy(update={"epsilon": 3.0, "against_server": False})
    found = frontier_of(summary.model_copy(update={"defenses": [summary.defenses[0], central]}))
    assert not found.points[1].against_server
    assert "epsilon is 3.00, not against the server." in found.conclusion
    assert guarantee(found.points[1]) == "3.00\nnot against the server"
    assert guarantee(found.points[0]) == "none"


@pytest.mark.parametrize(
    ("recognised", "guess", "expected"),
    [
        # Wilson's lower end by hand for z = 1.96 and n = 18: 1 gives 1.0%, 4 give 9.0%, 5 give 12.5%.
        (0, GUESSED_NONE, "guesses"),
        (1, GUESSED_NONE, "above"),
        (5, GUESSED_TWO, "above"),  # 12.5% is above the 11.1% of guesses
        (4, GUESSED_TWO, "guesses"),  # 9.0% is not
        (0, None, "unknown"),
    ],
)
def test_the_level_of_guesses(recognised: int, guess: GuessFacts | None, expected: str) -> None:
    summary = audited(("dp", recognised, 0.5), guess=guess)
    assert level(summary.defenses[0], summary.controls)[0] == expected


def test_wilson_by_hand() -> None:
    z, n, p = 1.959964, 18, 5 / 18
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    assert wilson(5 / 18, 18) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert wilson(0, 18)[0] == 0


def test_images_of_one_update_are_no_proof_and_no_alibi() -> None:
    """Five of 18 as in the table above, but in one update of three: neither above guesses nor as good."""
    lines = [
        finding("dp", 1 + image // 6, 0, image % 6, ssim=0.9 if image < 5 else 0.1) for image in range(18)
    ]
    summary = summarise([*POWER, *lines], facts(), [defense("dp")], [GUESSED_TWO])
    found, why = level(summary.defenses[0], summary.controls)
    assert found == "unknown"
    assert "5 of 18 recognised, in 1 of 3 updates (95% interval " in why
    assert "come out together" in why


def test_no_image_of_one_update_is_no_evidence_of_safety() -> None:
    """0 of 64 images of one update: one update says little of the next one."""
    lines = [finding("dp", 1, 0, image, ssim=0.1) for image in range(64)]
    part = control(*[0.9] * 5, 0.1)
    summary = summarise([*part, *lines], facts(), [defense("dp")], [GUESSED_NONE])
    assert summary.defenses[0].leak_rate_ci == pytest.approx((0, 0.793), abs=1e-3)
    assert level(summary.defenses[0], summary.controls)[0] == "unknown"
    whole = summarise([*POWER, *lines], facts(), [defense("dp")], [GUESSED_NONE])
    assert "up to 79% of images may leak there all the same" in frontier_of(whole).doubts[0]


def test_images_that_could_not_be_graded_are_not_taken_for_safe() -> None:
    summary = audited(("dp", 0, 0.5), lost=3)
    assert level(summary.defenses[0], summary.controls)[0] == "unknown"
    assert "3 more images could not be graded" in frontier_of(summary).points[0].why


def test_without_power_nothing_is_concluded() -> None:
    found = frontier_of(audited(("none", 0, 0.9), ("dp", 0, 0.5), positive=list(control(0.1, 0.1))))
    assert found.weakest is None
    assert found.conclusion.startswith("Nothing can be concluded")
    assert "no power here" in found.conclusion
    assert frontier_of(audited(("dp", 0, 0.5), positive=[])).points[0].level == "unknown"


def test_a_control_in_part_counts_only_where_chance_is_excluded() -> None:
    # 1 of 6 in the control, 0 of 18 under dp: chance is 6/24 = 25%. 3 of 6: 20 / 2024 = 1%.
    weak, strong = control(0.9, *[0.1] * 5), control(*[0.9] * 3, *[0.1] * 3)
    assert frontier_of(audited(("dp", 0, 0.5), positive=list(weak))).points[0].level == "unknown"
    assert frontier_of(audited(("dp", 0, 0.5), positive=list(strong))).points[0].level == "guesses"


def test_a_leak_is_a_leak_even_without_a_control() -> None:
    assert frontier_of(audited(("dp", 9, 0.5), positive=[])).points[0].level == "above"


def test_no_setting_at_the_level_is_said() -> None:
    found = frontier_of(audited(("none", 18, 0.9), ("dp", 4, 0.5)))
    assert found.weakest is None
    assert found.conclusion.startswith("No setting that was tried is shown to keep leakage at the level")


def test_no_defense_may_be_needed_and_accuracy_may_be_unknown() -> None:
    assert "Already without any defense" in frontier_of(audited(("none", 0, 0.9), ("dp", 0, 0.5))).conclusion
    found = frontier_of(audited(("none", 18, None), ("dp", 0, None)))
    assert found.weakest is None
    assert "Accuracy was not measured" in found.conclusion


def test_a_model_that_is_worth_nothing_is_a_doubt() -> None:
    """Two classes: naming always the same one is right half of the time."""
    [doubt] = frontier_of(audited(("none", 18, 0.9), ("dp", 0, 0.28))).doubts
    assert doubt.startswith("At 28% accuracy the model has learned nothing: of 2 classes,")
    assert not frontier_of(audited(("none", 18, 0.9), ("dp", 0, 0.51))).doubts
    assert frontier_of(audited(("none", 0, 0.5))).doubts[0].endswith("Train for longer.")


def test_images_recognised_at_the_level_of_guesses_are_no_all_clear() -> None:
    found = frontier_of(audited(("none", 2, 0.9), ("dp", 0, 0.6), guess=GUESSED_TWO))
    assert found.weakest == 0
    assert found.conclusion.endswith("guesses reach 11%.")
    assert "look at the pictures" in found.doubts[0]
    clear = frontier_of(audited(("none", 0, 0.9), ("dp", 0, 0.6), guess=GUESSED_TWO))
    assert clear.conclusion.endswith("No defense is needed for that.")
    assert not clear.doubts


def test_a_dearer_setting_of_the_sweep_that_leaks_is_a_doubt() -> None:
    params = {"prune:0.5": {"fraction": 0.5}, "prune:0.9": {"fraction": 0.9}}
    found = frontier_of(
        audited(("none", 18, 0.9), ("prune:0.5", 0, 0.8), ("prune:0.9", 9, 0.7), params=params)
    )
    assert found.weakest == 1
    assert "prune:0.9 costs more accuracy and still leaks" in found.doubts[0]
    few = summarise([*POWER, finding("dp")], facts(), [defense("dp")], [GUESSED_NONE])
    assert "Few updates were attacked" in frontier_of(few).doubts[0]


def test_sweeps_run_along_the_number_with_most_values() -> None:
    settings: list[Described] = [
        ("none", {}),
        ("dp:10", {"noise": 10.0, "clip": 1.0}),
        ("dp:1", {"noise": 1.0, "clip": 1.0}),
        ("dp:3", {"noise": 3.0, "clip": 1.0}),
        ("dp:1,clip=2", {"noise": 1.0, "clip": 2.0}),
        ("dp:3,clip=2", {"noise": 3.0, "clip": 2.0}),
        ("ats:a", {"policy": "a"}),
        ("ats:b", {"policy": "b"}),
        ("clip:1+prune:0.5", {"parts": [{"norm": 1.0}, {"fraction": 0.5}]}),
        ("clip:1+prune:0.9", {"parts": [{"norm": 1.0}, {"fraction": 0.9}]}),
    ]
    found = [(sweep.parameter, sweep.points) for sweep in find_sweeps(settings)]
    assert found == [("noise", [2, 3, 1]), ("noise", [4, 5]), ("parts.1.fraction", [8, 9])]
    assert settings_in_words(settings) == [
        "none", "10, 1", "1, 1", "3, 1", "1, 2", "3, 2", "a", "b", "0.5", "0.9",
    ]  # fmt: skip
    assert family("clip:1+prune:0.9") == "clip+prune"


def test_the_summary_holds_the_frontier_and_old_summaries_load(tmp_path: Path) -> None:
    summary = builders.summary()
    assert summary.frontier == frontier_of(summary)
    path = tmp_path / "summary.json"
    write_summary(path, summary)
    assert read_summary(path) == summary
    whole = json.loads(path.read_text())
    del whole["frontier"], whole["baseline_from"]
    for entry in whole["defenses"]:
        for client in entry["clients"]:
            del client["seen"]
    path.write_text(json.dumps(whole))
    old = read_summary(path)
    assert old.frontier is None
    assert frontier_of(old) == summary.frontier


def test_controls_without_guesses_have_no_rate() -> None:
    assert level(audited(("dp", 0, 0.5)).defenses[0], Controls())[0] == "unknown"


def test_an_image_closer_than_any_guess_is_no_guess() -> None:
    summary = audited(("none", 2, 0.5))
    name = summary.recognisability.metric
    better = next(metric.better for metric in summary.metrics if metric.name == name)
    near, far = (0.8, 0.4) if better == "higher" else (0.4, 0.8)
    guess = GuessSummary(
        words="another image", images=20, graded=20, recognisable=4, leak_rate=0.2,
        metrics={name: MetricStats(n=20, worst=0.6)},
    )  # fmt: skip
    controls = summary.controls.model_copy(update={"negative": {"same-class": guess}})
    levels = []
    for worst in (near, far):
        leak = summary.defenses[0].model_copy(update={"metrics": {name: MetricStats(n=18, worst=worst)}})
        whole = summary.model_copy(update={"controls": controls, "defenses": [leak]})
        levels.append(frontier_of(whole).points[0].level)
    assert levels == ["above", "guesses"]
