"""The accuracy that an app reports is read where Flower keeps it, and by the name that the app gives it."""

from flwr.app import Message, MetricRecord, RecordDict
from flwr.server.history import History
from flwr.serverapp.strategy import Result

from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.apps.accuracy import ReportedAccuracy


def reply(node: int, metrics: dict[str, int | float]) -> Message:
    with task_identity(1):
        asked = Message(RecordDict(), dst_node_id=node, message_type="evaluate")
        return Message(RecordDict({"metrics": MetricRecord(dict(metrics))}), reply_to=asked)


def test_clients_replies_are_kept_by_client_with_key_and_examples() -> None:
    accuracy = ReportedAccuracy()
    replies = [
        reply(70, {"eval_loss": 0.3, "eval_acc": 0.5, "num-examples": 40}),
        reply(71, {"balanced_acc": 0.1, "Accuracy": 88.0, "num_examples": 7}),
        reply(72, {"auc": 0.9, "num-examples": 7}),
        reply(73, {"val_acc": float("nan")}),
        reply(74, {"accuracy": 120.0}),
    ]
    accuracy.replied(3, {70: 0, 71: 1, 72: 2, 73: 3, 74: 4}, replies)
    (told,) = accuracy.rounds()
    assert told.round == 3
    assert {who: (one.key, one.value, one.examples) for who, one in told.clients.items()} == {
        0: ("eval_acc", 0.5, 40),
        1: ("Accuracy", 88.0, 7),
    }
    assert accuracy.server() is None


def test_the_servers_own_evaluation_is_read_when_all_is_over() -> None:
    result, accuracy = Result(), ReportedAccuracy()
    accuracy.look()  # in the first round; the last evaluation comes after the last message
    result.evaluate_metrics_serverapp[0] = MetricRecord({"centralized_accuracy": 0.1, "loss": 2.3})
    result.evaluate_metrics_serverapp[1] = MetricRecord({"centralized_accuracy": 0.8, "loss": 1.0})
    del result
    told = accuracy.server()
    assert told is not None
    assert (told.key, told.rounds) == ("centralized_accuracy", {0: 0.1, 1: 0.8})


def test_the_older_apis_history_is_read_too() -> None:
    history, accuracy = History(), ReportedAccuracy()
    accuracy.look()
    history.add_metrics_centralized(1, {"accuracy": 0.25})
    history.add_metrics_centralized(2, {"accuracy": 0.5})
    told = accuracy.server()
    assert told is not None
    assert (told.key, told.rounds) == ("accuracy", {1: 0.25, 2: 0.5})
