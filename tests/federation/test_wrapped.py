"""The wrapper around a client app: fresh noise for every update that leaves, whatever the messages say."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.wrapped import WrappedClientApp, round_said
from fl_audit.strategies.defenses import defenses

SENT = ArrayRecord([np.zeros(50, np.float32)])


def still() -> ClientApp:
    """A client that trains nothing: what comes back is the defense's noise alone."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        content = RecordDict({"arrays": message.content["arrays"], "m": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def released(configs: list[dict[str, Any]]) -> list[np.ndarray]:
    """What one client releases for messages with these configs, one after the other."""
    app = WrappedClientApp(still(), defenses.create("noise:0.1"), seed=3, keep=lambda number, client: False)
    with task_identity(1):
        grid = LocalGrid(app, clients=1, seed=0, run_id=1)
        (node,) = grid.get_node_ids()
        found = []
        for config in configs:
            content = RecordDict({"arrays": SENT, "config": ConfigRecord(config)})
            (reply,) = grid.send_and_receive([Message(content, node, "train")])
            found.append(reply.content["arrays"].to_numpy_ndarrays()[0])  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize(
    "configs",
    [
        [{}] * 3,
        [{"server-round": 4}] * 3,
        [{"server_round": n} for n in (1, 2, 3)],
        [{"server-round": n} for n in (1, 2, 1)],
    ],
    ids=["no round said", "several in a round", "Flower's older word", "rounds that come again"],
)
def test_no_noise_comes_twice(configs: list[dict[str, Any]]) -> None:
    first, second, third = released(configs)
    assert first.std() > 0.01
    assert not np.allclose(first, second)
    assert not np.allclose(first, third)
    assert not np.allclose(second, third)
    for mine, again in zip((first, second, third), released(configs), strict=True):
        assert np.array_equal(mine, again)


def test_the_round_is_read_in_both_words() -> None:
    with task_identity(1):
        for name in ("server-round", "server_round"):
            assert round_said(Message(RecordDict({"config": ConfigRecord({name: 7})}), 1, "train")) == 7
        assert round_said(Message(RecordDict(), 1, "train", group_id="5")) == 5


def test_a_partition_that_is_no_number_is_no_failure() -> None:
    app = WrappedClientApp(still(), defenses.create("none"), seed=3, keep=lambda number, client: False)
    with task_identity(1):
        message = Message(RecordDict({"arrays": SENT}), 5, "train")
        context = Context(1, 5, {"partition-id": "site-a"}, RecordDict(), {})
        assert app(message, context).has_content()
