"""The in-process grid keeps clients and server as far apart as a network would."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.local_engine import LocalGrid


def message(node: int, content: RecordDict) -> Message:
    return Message(content, node, "train")


def content() -> RecordDict:
    arrays = ArrayRecord({"w": Array(np.arange(3.0)), "b": Array(np.zeros(2))})
    return RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1, "list": [1, 2]})})


def grid(client: Any, clients: int = 2) -> LocalGrid:
    return LocalGrid(client, clients=clients, seed=1, run_id=1)


def test_a_client_cannot_change_what_the_server_or_the_next_client_holds() -> None:
    kept: list[RecordDict] = []

    def spoil(message: Message, context: Context) -> Message:
        arrays, config = message.content.array_records["arrays"], message.content.config_records["config"]
        assert arrays["w"].numpy().tolist() == [0, 1, 2]
        assert dict(config) == {"server-round": 1, "list": [1, 2]}
        reply = RecordDict({"arrays": ArrayRecord(dict(arrays)), "m": MetricRecord({"a": [1.0]})})
        kept.append(reply)
        arrays["b"].data = b"spoilt"
        del arrays["w"]
        config["server-round"] = 99
        config["list"].append(3)  # type: ignore[union-attr,arg-type]
        del message.content["config"]
        return Message(reply, reply_to=message)

    shared = content()
    with task_identity(1):
        engine = grid(spoil)
        replies = list(engine.send_and_receive([message(n, shared) for n in engine.get_node_ids()]))
    assert [reply.has_content() for reply in replies] == [True, True]
    assert shared == content()
    # and a strategy that consumes a reply does not reach into the client
    replies[0].content.array_records["arrays"].clear()
    assert list(kept[0].array_records["arrays"]) == ["w", "b"]


def test_each_node_keeps_its_own_state_and_partition() -> None:
    def count(message: Message, context: Context) -> Message:
        record = context.state.metric_records.get("n", MetricRecord({"n": 0}))
        context.state["n"] = MetricRecord({"n": int(record["n"]) + 1})  # type: ignore[arg-type]
        partition = context.node_config["partition-id"]
        metrics = MetricRecord({"n": int(record["n"]) + 1, "p": int(partition)})  # type: ignore[arg-type]
        return Message(RecordDict({"m": metrics}), reply_to=message)

    with task_identity(1):
        engine = grid(count, 3)
        first, second, third = engine.get_node_ids()
        order = [third, first, third]
        replies = engine.send_and_receive([message(node, content()) for node in order])
    found = [dict(reply.content.metric_records["m"]) for reply in replies]
    assert found == [{"n": 1, "p": 2}, {"n": 1, "p": 0}, {"n": 2, "p": 2}]
    assert [reply.metadata.src_node_id for reply in replies] == order


@pytest.mark.parametrize("answer", [None, "text", 3])
def test_what_is_no_message_is_an_error_reply(answer: Any) -> None:
    with task_identity(1):
        engine = grid(lambda message, context: answer)
        [reply] = engine.send_and_receive([message(engine.get_node_ids()[0], content())])
        [unknown] = engine.send_and_receive([message(12345, content())])
    assert reply.has_error()
    assert "expected a Message" in str(reply.error.reason)
    assert "no node 12345" in str(unknown.error.reason)


def test_a_reply_is_pulled_once_and_ctrl_c_passes() -> None:
    def interrupt(message: Message, context: Context) -> Message:
        raise KeyboardInterrupt

    with task_identity(1):
        engine = grid(lambda message, context: Message(RecordDict(), reply_to=message))
        names = engine.push_messages([message(engine.get_node_ids()[0], content())])
        assert [len(engine.pull_messages(names)) for _ in range(2)] == [1, 0]
        stopped = grid(interrupt)
        with pytest.raises(KeyboardInterrupt):
            stopped.push_messages([message(stopped.get_node_ids()[0], content())])
