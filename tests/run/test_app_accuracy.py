"""The accuracy of an app is its own account: the server's evaluation first, else its clients', weighted."""

import pytest

from fl_audit.federation.apps import AppOutcome
from fl_audit.federation.apps.job import ClientAccuracy, RoundAccuracy, ServerAccuracy
from fl_audit.run.app_accuracy import accuracy_of


def clients(number: int, key: str = "eval_acc", **told: tuple[float, int | None]) -> RoundAccuracy:
    return RoundAccuracy(
        round=number,
        clients={
            int(who[1:]): ClientAccuracy(key=key, value=value, examples=examples)
            for who, (value, examples) in told.items()
        },
    )


def test_of_clients_it_is_the_mean_weighted_by_examples_under_the_apps_own_name() -> None:
    told = accuracy_of(
        AppOutcome(accuracy=[clients(1, c0=(0.0, 10)), clients(2, c0=(0.5, 30), c1=(0.9, 10)), clients(3)])
    )
    assert told.utility.accuracy == pytest.approx(0.6)
    assert "'eval_acc'" in told.utility.source
    assert "after round 2" in told.utility.source
    assert told.clients == {0: 0.5, 1: 0.9}
    assert [(entry.round, entry.accuracy) for entry in told.utility.rounds] == [
        (1, 0.0),
        (2, pytest.approx(0.6)),
    ]


def test_a_client_that_does_not_say_how_many_examples_it_has_makes_all_weigh_the_same() -> None:
    told = accuracy_of(AppOutcome(accuracy=[clients(1, c0=(0.5, 30), c1=(1.0, None))]))
    assert told.utility.accuracy == pytest.approx(0.75)


def test_the_servers_own_evaluation_comes_first_and_percentages_become_shares() -> None:
    server = ServerAccuracy(key="central_accuracy", rounds={0: 9.5, 1: 0.5, 2: 84.0})
    told = accuracy_of(AppOutcome(server_accuracy=server, accuracy=[clients(1, c0=(55.0, 1))]))
    assert told.utility.accuracy == pytest.approx(0.84)
    assert "'central_accuracy' of its server's own evaluation" in told.utility.source
    first, second, _ = told.utility.rounds
    assert first.accuracy == pytest.approx(0.095)
    assert second.accuracy == pytest.approx(0.005)
    assert second.client_accuracy == pytest.approx(0.55)


def test_an_app_that_tells_none_has_none() -> None:
    told = accuracy_of(AppOutcome(accuracy=[clients(1)]))
    assert (told.utility.accuracy, told.utility.source, told.clients) == (None, "", {})
