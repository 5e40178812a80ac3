import numpy as np
import pytest
from scipy.stats import binom

from fl_audit.metrics.leakrate import independent_images
from fl_audit.reports.caveats import caveats
from fl_audit.reports.chance import SIGNIFICANCE, chance, luck
from fl_audit.reports.schema import Finding, GuessFacts, GuessSummary, Leak, Summary
from fl_audit.reports.summarise import summarise
from fl_audit.reports.verdict import Kind, control_sentence, headline, judge_defense, overall
from tests.reports import builders
from tests.reports.builders import control, defense, facts, failure, finding


def verdict(findings: list[Finding], name: str = "dp") -> tuple[str, str]:
    whole = summarise(findings, facts(), [defense(name)])
    found = judge_defense(whole.defenses[0], whole)
    return found.kind, found.text


def lines(name: str, *ssim: float) -> list[Finding]:
    return [finding(name, client=client, ssim=value) for client, value in enumerate(ssim)]


def test_a_leak() -> None:
    kind, text = verdict([*control(0.9), *lines("none", 0.9, 0.8, 0.1)], "none")
    assert kind == "leaks"
    assert text.startswith("Without defense, 2 of 3 images could be recognised (67%, 95% CI ")


def test_a_leak_with_failures_says_that_it_may_be_higher() -> None:
    kind, text = verdict([*control(0.9), *lines("dp", 0.9), failure("dp", 2)])
    assert kind == "leaks"
    assert "the true share may be higher" in text


def test_no_leak_with_power() -> None:
    kind, text = verdict([*control(0.9, 0.9, 0.9), *lines("dp", 0.1, 0.1)])
    assert kind == "none-found"
    assert text.startswith("Under dp, 0 of 2 images could be recognised (0%, 95% CI 0% to ")
    assert "safe" not in text


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        ([*control(0.1, 0.1), *lines("dp", 0.1)], "reached 0 of 2, so the attack has no power here"),
        (
            [*control(0.9, 0.1), *lines("dp", 0.1)],
            "reached 1 of 2, so the attack has power here only in part",
        ),
        ([failure("control"), *lines("dp", 0.1)], "is unknown"),
        (lines("dp", 0.1), "no positive control was run"),
        ([*control(0.9), *lines("dp", 0.1), failure("dp", 2)], "1 more could not be graded"),
    ],
)
def test_no_leak_but_not_shown_to_be_safe(findings: list[Finding], words: str) -> None:
    kind, text = verdict(findings)
    assert kind == "not-shown"
    assert words in text
    assert text.endswith("not shown to be safe.")


def test_where_the_training_is_not_known_in_full_nothing_recognised_is_not_shown_to_be_safe() -> None:
    for ssim, kind in ((0.1, "not-shown"), (0.9, "leaks")):  # what leaks, leaks all the same
        whole = summarise(
            [*control(0.9, 0.9, 0.9), *lines("dp", ssim, ssim)],
            facts(doubt="client 0 trained in another way"),
            [defense("dp")],
        )
        found = judge_defense(whole.defenses[0], whole)
        assert found.kind == kind
        assert ("the clients train in a way that the audit does not know in full" in found.text) == (
            ssim < 0.5
        )
        assert "Client 0 trained in another way." in caveats(whole)


def test_all_failed_is_never_safe() -> None:
    kind, text = verdict([*control(0.9), failure("dp"), failure("dp", client=1)])
    assert kind == "not-shown"
    assert text == (
        "Under dp, nothing could be graded (the attack gave no image: 2): the loss is not finite. "
        "Nothing is shown about safety."
    )
    assert verdict(control(0.9))[1] == "Under dp, nothing was attacked: nothing is shown about safety."


def test_what_nobody_tried_is_told_from_what_failed() -> None:
    crowd = "the update is of 100 images; 64 are attempted, since more cannot be told apart"
    untried = [failure("dp", image=image, status="not-attempted", reason=crowd) for image in (1, 2, 3)]
    lost = failure("dp", 2)
    whole = summarise([*control(0.9), *lines("dp", 0.1), *untried, lost], facts(), [defense("dp")])
    dp = whole.defenses[0]
    assert dp.failed == {"attack-failed": 1, "not-attempted": 3}
    assert (dp.failed_count, dp.not_attempted, dp.images, dp.graded) == (4, 3, 5, 1)
    text = judge_defense(dp, whole).text
    assert (
        f"3 more were not attempted ({crowd}) and 1 more could not be graded (the attack gave no image: 1)"
        in text
    )
    assert text.endswith("not shown to be safe.")
    assert {reason.status for reason in dp.clients[0].reasons} == {"attack-failed", "not-attempted"}
    kind, text = verdict([*control(0.9), *untried])
    assert kind == "not-shown"
    assert f"nothing could be graded (not attempted: 3): {crowd}" in text


def test_several_reasons_are_left_to_the_list_of_problems() -> None:
    text = verdict([failure("dp"), failure("dp", client=1, reason="not a gradient of an image model")])[1]
    assert (
        text
        == "Under dp, nothing could be graded (the attack gave no image: 2): nothing is shown about safety."
    )
    sent = failure("dp", status="client-failed", reason="whatever a client's exception says")
    assert "exception" not in verdict([sent])[1]


def guessed(recognised: int, of: int, best: float) -> list[GuessFacts]:
    """Guesses of which some are recognised; the closest one reaches an SSIM of ``best``."""
    judged: list[bool | None] = [place < recognised for place in range(of)]
    return [
        GuessFacts(
            kind="same-class",
            words="another image of the same class",
            scores={"ssim": [best, *[0.1] * (of - 1)]},
            recognisable=judged,
        )
    ]


@pytest.mark.parametrize(
    ("powered", "found", "guesses", "kind"),
    [
        (0.1, [0.6, 0.6], guessed(2, 20, best=0.7), "not-shown"),  # 2 of 20, as many as of the guesses
        (0.9, [0.6, 0.6], guessed(2, 20, best=0.7), "not-shown"),  # that it works elsewhere is no proof here
        (0.1, [0.6, 0.8], guessed(2, 20, best=0.7), "leaks"),  # one is closer than any guess
        (0.1, [0.6, 0.6], guessed(0, 20, best=0.4), "leaks"),  # no guess is ever recognised
        (0.1, [0.6] * 10, guessed(2, 20, best=0.7), "leaks"),  # too many for luck
    ],
)
def test_what_luck_explains_is_no_leak(
    powered: float, found: list[float], guesses: list[GuessFacts], kind: str
) -> None:
    findings = [*control(powered, powered), *lines("dp", *found, *[0.1] * (20 - len(found)))]
    whole = summarise(findings, facts(), [defense("dp")], guesses)
    judged = judge_defense(whole.defenses[0], whole)
    assert judged.kind == kind
    assert ("the rule calls 2 of 20 mere guesses recognised too" in judged.text) == (kind == "not-shown")
    assert whole.defenses[0].recognisable == len(found), "the count stays as it is"


def test_luck_is_a_binomial_tail() -> None:
    whole = summarise(lines("dp", 0.6, 0.6, 0.1), facts(), [defense("dp")], guessed(1, 4, best=0.7))
    # At a rate of 1/4, two or three of three: 3 * 1/16 * 3/4 + 1/64.
    chances = luck(whole.defenses[0], whole.controls.negative["same-class"])
    assert chances == pytest.approx(3 / 16 * 3 / 4 + 1 / 64)


def test_luck_counts_updates_whose_images_come_out_together() -> None:
    guesses = guessed(1, 4, best=0.7)

    def of(*updates: int) -> float:
        """Luck of updates with this many of four images recognised."""
        found = [
            finding("dp", 1, client, image, ssim=0.6 if image < hit else 0.1)
            for client, hit in enumerate(updates)
            for image in range(4)
        ]
        whole = summarise(found, facts(), [defense("dp")], guesses)
        return luck(whole.defenses[0], whole.controls.negative["same-class"])

    assert of(4) == pytest.approx(1 / 4)  # one update is one guess, not four
    assert of(4, 0, 0) == pytest.approx(1 - (3 / 4) ** 3)  # one or more of three
    assert of(4, 4, 0) == pytest.approx(3 / 16 * 3 / 4 + 1 / 64)  # two or three of three
    assert of(0, 0) == 1
    # Four of twelve, evenly spread: as many independent images.
    assert of(*[1] * 12) == pytest.approx(binom.sf(11, 48, 1 / 4))


def test_luck_cries_wolf_no_more_often_than_it_says() -> None:
    """Guesses whose updates come out alike, 1 in 4 recognised: at 5%, one group of twenty may look odd."""
    rng = np.random.default_rng(0)
    guess = GuessSummary(images=4, graded=4, recognisable=1, leak_rate=0.25, metrics={})
    odd, naive = [], []
    for _ in range(400):
        hits, sizes = rng.binomial(6, rng.beta(0.25, 0.75, 12)), np.full(12, 6)
        leak = Leak(
            images=72,
            graded=72,
            recognisable=int(hits.sum()),
            leak_rate=None,
            independent=independent_images(hits, sizes),
        )
        odd.append(luck(leak, guess) < SIGNIFICANCE)
        naive.append(binom.sf(hits.sum() - 1, 72, 0.25) < SIGNIFICANCE)
    assert np.mean(odd) <= 0.07
    assert np.mean(naive) > 0.15, "each image counted for itself cries wolf"


def test_a_control_that_reached_a_part_counts_where_chance_is_unlikely() -> None:
    mixed = [*control(0.9, 0.9, 0.9, 0.9, 0.9, 0.1), *lines("dp", *[0.1] * 6)]
    whole = summarise(mixed, facts(), [defense("dp")])
    assert whole.controls.positive is not None
    # 5 of 6 against 0 of 6: C(6,5) / C(12,5) = 6 / 792, Fisher's exact test.
    assert chance(whole.controls.positive, whole.defenses[0]) == pytest.approx(6 / 792)
    kind, text = verdict(mixed)
    assert kind == "none-found"
    assert "reach only part of the control" in text


def test_images_of_one_update_count_once_beside_a_control_that_was_reached_in_part() -> None:
    control_part = control(0.9, 0.9, 0.9, 0.9, 0.9, 0.1)
    one = [finding("dp", 1, 0, image, ssim=0.1) for image in range(6)]
    whole = summarise([*control_part, *one], facts(), [defense("dp")])
    positive, dp = whole.controls.positive, whole.defenses[0]
    assert positive is not None
    assert (dp.graded, dp.updates, dp.updates_recognised) == (6, 1, 0)
    # Six images of one update: C(6,5) / C(7,5) = 6 / 21. Taken for six updates it would be 6 / 792.
    assert chance(positive, dp) == pytest.approx(6 / 21)
    kind, text = verdict([*control_part, *one])
    assert kind == "not-shown"
    assert "none of 1 here, 5 of 6 in the control, which chance alone gives in 29% of cases" in text
    # One update of two with a recognised image, however many images are: 6 C 5, 2 C 1 over 8 C 6, and less.
    two = [finding("dp", 1, client, image, ssim=0.9 - 0.8 * client) for client in (0, 1) for image in (0, 1)]
    dp = summarise([*control_part, *two], facts(), [defense("dp")]).defenses[0]
    assert (dp.recognisable, dp.updates, dp.updates_recognised) == (2, 2, 1)
    assert chance(positive, dp) == pytest.approx((1 + 6 * 2) / 28)
    # An aggregate is one update, whoever's images are in it.
    summed = [line.model_copy(update={"aggregate_of": 2}) for line in two]
    dp = summarise([*control_part, *summed], facts(), [defense("dp")]).defenses[0]
    assert (dp.updates, dp.updates_recognised) == (1, 1)
    old = dp.model_copy(update={"updates": None, "updates_recognised": None, "recognisable": 0})
    assert chance(positive, old) == pytest.approx(6 / 21)


def test_another_attack_that_failed_is_said() -> None:
    extra = failure("dp", attack="dlg")
    kind, text = verdict([*control(0.9), *lines("dp", 0.1), extra])
    assert kind == "none-found"
    assert "on 1 image one attack or more failed" in text


def test_the_headline_names_all_three_groups() -> None:
    text = headline(builders.summary())
    assert "images could be recognised without defense." in text
    assert "These attacks recognised none under dp." in text
    assert "Not shown to be safe: under prune:0.9." in text


def test_control_sentences() -> None:
    whole = builders.summary()
    assert "reached 2 of 2, so the attack has power here" in control_sentence(whole.controls.positive)
    assert "may simply be weak" in control_sentence(None)


def test_caveats_name_what_was_left_out() -> None:
    part = facts(
        federation={"engine": "local", "strategy": "fedavg", "clients": 9, "rounds": 5, "training": {}}
    )
    whole: Summary = summarise([finding("dp")], part, [defense("dp")])
    said = " ".join(caveats(whole))
    assert "No undefended baseline" in said
    assert "clients 0\N{EN DASH}1 of 9" in said
    assert "rounds 1\N{EN DASH}2 of 5" in said
    assert "interim-ssim" in said
    assert not any("baseline" in caveat for caveat in caveats(builders.summary()))


def test_many_attacked_clients_are_counted_in_the_caveat() -> None:
    federation = {"engine": "local", "strategy": "fedavg", "clients": 200, "rounds": 2, "training": {}}
    attacked = {"rounds": [1, 2], "clients": list(range(0, 120, 2)), "rule": "the lowest ids"}
    part = facts(federation=federation, attacked=attacked)
    said = " ".join(caveats(summarise([finding("dp")], part, [defense("dp")])))
    assert "Only 60 of 200 clients were attacked (the lowest ids); nothing is known of the others." in said


def test_one_attacked_client_is_a_singular() -> None:
    attacked = {"rounds": [1, 2], "clients": [0], "rule": "the lowest ids"}
    said = " ".join(caveats(summarise([finding("dp")], facts(attacked=attacked), [defense("dp")])))
    assert "Only client 0 of 2 was attacked (the lowest ids); nothing is known of the others." in said


def test_the_headline_counts_defenses_where_they_are_many() -> None:
    kinds: list[tuple[str, Kind]] = [("without defense", "leaks")]
    kinds += [(f"under dp:{number}", "leaks") for number in range(5)]
    text = overall("clients' images", kinds)
    assert text == "Clients' images could be recognised without defense and under 5 of the defenses."
