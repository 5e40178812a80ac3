"""The summary against numbers computed by hand."""

import pytest

from fl_audit.reports.schema import Finding, MetricStats, Summary
from fl_audit.reports.summarise import summarise
from tests.reports import builders
from tests.reports.builders import defense, facts, failure, finding


def one(findings: list[Finding], name: str = "dp", **changes: object) -> Summary:
    return summarise(findings, facts(**changes), [defense(name)])


def test_counts_and_rates_by_hand() -> None:
    none, dp, prune = builders.summary().defenses
    assert (none.images, none.graded, none.recognisable, none.leak_rate) == (4, 4, 3, 0.75)
    assert none.failed == {}
    assert none.leak_rate_ci is not None
    assert none.leak_rate_ci[0] <= 0.75 <= none.leak_rate_ci[1]
    assert (dp.recognisable, dp.leak_rate) == (0, 0.0)
    assert dp.leak_rate_ci is not None
    assert dp.leak_rate_ci[1] > 0.3  # nothing found in four images bounds little
    assert (prune.images, prune.graded) == (3, 1)  # a whole update of unknown images is no image
    assert prune.failed == {"attack-failed": 1, "client-failed": 1, "unscored": 1}
    assert prune.leak_rate == 0.0


def test_rounds_and_clients_by_hand() -> None:
    none = builders.summary().defenses[0]
    assert [(r.round, r.recognisable, r.leak_rate, r.accuracy) for r in none.rounds] == [
        (1, 2, 1.0, None),
        (2, 1, 0.5, 0.8),
    ]
    assert [(c.client, c.recognisable, c.leak_rate) for c in none.clients] == [(0, 2, 1.0), (1, 1, 0.5)]
    worst = none.clients[0].worst
    assert worst is not None
    assert (worst.round, worst.metrics["ssim"]) == (1, 0.9)
    assert [r.leak_rate for r in none.clients[1].rounds] == [1.0, 0.0]


def test_metric_statistics_follow_the_declared_direction() -> None:
    stats = builders.summary().defenses[0].metrics
    assert stats["ssim"].mean == pytest.approx((0.9 + 0.7 + 0.8 + 0.2) / 4)
    assert stats["ssim"].worst == 0.9
    assert stats["mse"].worst == pytest.approx(0.2 - 0.19 * 0.9)
    assert stats["ssim"].quantiles["p50"] == pytest.approx(0.75)
    assert stats["lpips"] == MetricStats(n=0)


def test_nothing_graded_is_null() -> None:
    dp = one([failure("dp"), failure("dp", client=1, image=None, status="client-failed")]).defenses[0]
    assert dp.leak_rate is None
    assert dp.leak_rate_ci is None
    assert dp.clients[0].worst is None
    assert (dp.images, dp.graded, dp.failed_count) == (1, 0, 2)


def test_not_attacked_is_null_and_keeps_its_clients() -> None:
    dp = one([]).defenses[0]
    assert (dp.images, dp.leak_rate, dp.failed) == (0, None, {})
    assert [client.client for client in dp.clients] == [0, 1]


def test_an_image_counts_once_at_the_attack_that_came_closest() -> None:
    lines = [
        finding("dp", ssim=0.3, attack="dlg"),
        finding("dp", ssim=0.6, attack="analytic"),
        failure("dp", client=1, attack="dlg"),
        finding("dp", client=1, ssim=0.2, attack="analytic"),
    ]
    dp = one(lines).defenses[0]
    assert (dp.images, dp.graded, dp.recognisable, dp.failed_count, dp.partly_failed) == (2, 2, 1, 0, 1)
    assert dp.metrics["ssim"].worst == 0.6
    assert dp.metrics["ssim"].mean == pytest.approx(0.4)
    assert {a.attack: (a.graded, a.recognisable, a.failed_count) for a in dp.attacks} == {
        "analytic": (2, 1, 0),
        "dlg": (1, 0, 1),
    }
    assert dp.clients[0].worst is not None
    assert dp.clients[0].worst.attack == "analytic"


def test_a_line_without_an_image_is_not_counted_beside_images_of_the_same_update() -> None:
    lines = [finding("dp", ssim=0.3), failure("dp", image=None, attack="dlg")]
    dp = one(lines).defenses[0]
    assert (dp.images, dp.failed_count) == (1, 0)
    assert [reason.attack for reason in dp.clients[0].reasons] == ["dlg"]


def test_equal_reasons_are_counted_together() -> None:
    dp = one([failure("dp", image=image) for image in range(3)]).defenses[0]
    assert [(r.status, r.count) for r in dp.clients[0].reasons] == [("attack-failed", 3)]


@pytest.mark.parametrize(
    ("lines", "power"),
    [
        (builders.control(0.9, 0.8), "yes"),
        (builders.control(0.9, 0.1), "partly"),
        ([*builders.control(0.9), failure("control", 2)], "partly"),
        (builders.control(0.1, 0.2), "no"),
        ([failure("control")], "unknown"),
    ],
)
def test_power_of_the_positive_control(lines: list[Finding], power: str) -> None:
    positive = one([*lines, finding("dp")]).controls.positive
    assert positive is not None
    assert positive.power == power
    assert len(positive.pictures) == positive.graded


def test_the_control_is_not_counted_among_the_defenses() -> None:
    whole = builders.summary()
    assert [defense.name for defense in whole.defenses] == ["none", "dp", "prune:0.9"]
    assert whole.controls.positive is not None
    assert (whole.controls.positive.recognisable, whole.controls.positive.images) == (2, 2)
    assert one([finding("dp")]).controls.positive is None


def test_the_negative_control_keeps_unmeasured_guesses_out_of_its_rate() -> None:
    guess = builders.summary().controls.negative["mean-image"]
    assert (guess.images, guess.graded, guess.recognisable, guess.leak_rate) == (4, 3, 0, 0.0)
    assert guess.metrics["ssim"].n == 3
    assert guess.metrics["ssim"].mean == pytest.approx(0.2)
    assert guess.metrics["mse"].quantiles["p95"] == pytest.approx(0.157)


def test_the_summary_depends_on_nothing_but_its_input() -> None:
    assert builders.summary() == builders.summary()


def test_an_undescribed_defense_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="noise"):
        one([finding("noise")])
