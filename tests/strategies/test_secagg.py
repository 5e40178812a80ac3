"""Flower's SecAgg+ through the recording grid: what is captured is what the server gets, and no more."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.server import Grid, LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAdam, FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from fl_audit.core.captures import list_captures, read_update
from fl_audit.core.types import EVERYONE, CaptureKey
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.apps.live import not_the_mean
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.server_app import quiet_flower
from fl_audit.strategies import AuditGrid, Recorder, audited
from fl_audit.strategies._proxy import GridProxy

CLIENTS = 4
ARRAYS = [np.linspace(-1, 1, 6).reshape(2, 3), np.array(0.5), np.ones(3)]


class Client(NumPyClient):
    """Moves every value by its number; holds as many examples as its number and ten."""

    def __init__(self, number: int) -> None:
        self.number = number

    def fit(self, parameters: Any, config: Any) -> Any:
        return [array + 0.1 * self.number for array in parameters], 10 + self.number, {"who": self.number}


def drops(gone: tuple[int, ...]) -> Any:
    """A mod under which these clients fail once they have agreed on keys."""

    def mod(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        step = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        if step == "collect_masked_vectors" and context.node_config["partition-id"] in gone:
            raise OSError("out of battery")
        return call_next(message, context)

    return mod


class Renaming(GridProxy):
    """A protocol of an app's own: the vectors come under another name, which its server knows."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        for reply in replies:
            record = reply.content.config_records.get(RECORD_KEY_CONFIGS, ConfigRecord())
            if "mine" in record:
                record[Key.MASKED_PARAMETERS] = record.pop("mine")
        return replies


def renamed(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    reply = call_next(message, context)
    record = reply.content.config_records[RECORD_KEY_CONFIGS]
    if Key.MASKED_PARAMETERS in record:
        record["mine"] = record.pop(Key.MASKED_PARAMETERS)
    return reply


def federate(
    wrap: Callable[[Grid], Grid],
    *,
    strategy: type[FedAvg] = FedAvg,
    mods: Iterable[Any] = (),
    rounds: int = 1,
    **settings: Any,
) -> list[np.ndarray]:
    """The global model after the last round."""
    kept: list[np.ndarray] = []

    def evaluate(number: int, parameters: Any, config: Any) -> None:
        kept[:] = parameters

    def client_fn(context: Context) -> Any:
        return Client(int(context.node_config["partition-id"])).to_client()

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        old = strategy(
            initial_parameters=ndarrays_to_parameters(ARRAYS),
            evaluate_fn=evaluate,
            fraction_evaluate=0.0,
            min_available_clients=CLIENTS,
        )
        legacy = LegacyContext(context, config=ServerConfig(num_rounds=rounds), strategy=old)
        workflow = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, max_weight=50.0, **settings)
        DefaultWorkflow(fit_workflow=workflow)(grid, legacy)

    with quiet_flower(), task_identity(1):
        raw = LocalGrid(
            ClientApp(client_fn=client_fn, mods=[*mods, secaggplus_mod]), clients=CLIENTS, seed=1, run_id=1
        )
        app(wrap(raw), Context(1, 0, {}, RecordDict(), {}))
    assert parameters_to_ndarrays(ndarrays_to_parameters(kept))
    return kept


def weighted(values: list[int]) -> float:
    """The mean of what the clients of these numbers add, by hand."""
    return sum(0.1 * number * (10 + number) for number in values) / sum(10 + number for number in values)


@pytest.mark.parametrize("gone", [(), (2,)])
def test_the_capture_is_the_mean_that_the_server_gets(tmp_path: Path, gone: tuple[int, ...]) -> None:
    final = federate(lambda grid: audited(grid, out=tmp_path, clients=1), mods=[drops(gone)])
    (key,) = list_captures(tmp_path / "captures", "none")
    assert key == CaptureKey("none", 1, EVERYONE)
    update = read_update(tmp_path / "captures", key)
    left = [number for number in range(CLIENTS) if number not in gone]
    for ours, servers, sent in zip(update.received.values(), final, ARRAYS, strict=True):
        if sent.ndim:  # Flower 1.41 forgets to shift and scale arrays of no dimension
            np.testing.assert_allclose(ours.numpy(), servers, rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours.numpy(), sent + weighted(left), rtol=0, atol=1e-4)
    # A bare grid numbers clients by the rank of their nodes: what they sent in clear tells who is who.
    whole = sum(10 + number for number in left)
    weights = {part.metrics["who"]: part.weight for part in update.cohort}
    assert weights == pytest.approx({number: (10 + number) / whole for number in left})
    assert not any("masked" in name or "share" in name for part in update.cohort for name in part.metrics)
    assert "stage" not in update.config
    assert update.problem() is None


def test_of_a_round_that_the_protocol_ends_early_nothing_is_written(tmp_path: Path) -> None:
    grids: list[AuditGrid] = []

    def wrap(grid: Grid) -> Grid:
        grids.append(AuditGrid(grid, Recorder(tmp_path)))
        return grids[0]

    final = federate(wrap, mods=[drops((0, 1, 2))])
    np.testing.assert_array_equal(final[0], ARRAYS[0])
    assert not list_captures(tmp_path / "captures", "none")
    assert grids[0].recorder.secure.problems == {1: "the protocol stopped before the masks were taken off"}


@pytest.mark.parametrize("strategy", [FedAvg, FedAdam])
def test_a_protocol_of_the_apps_own_is_read_off_the_next_model_if_the_server_averages(
    tmp_path: Path, strategy: type[FedAvg]
) -> None:
    recorder = Recorder(tmp_path, not_the_mean=not_the_mean)
    federate(lambda grid: Renaming(AuditGrid(grid, recorder)), strategy=strategy, mods=[renamed], rounds=2)
    found = list_captures(tmp_path / "captures", "none")
    assert "KeyError: 'masked_params'" in recorder.secure.problems[1]
    if strategy is FedAdam:
        assert not found
        assert "FedAdam does more than average" in recorder.secure.problems[1]
        return
    # No model goes out after the last round.
    assert [key.stem for key in found] == ["r001-all"]
    assert recorder.secure.how == {1: "next model"}
    mean = read_update(tmp_path / "captures", found[0])
    expected = ARRAYS[0] + weighted([0, 1, 2, 3])
    np.testing.assert_allclose(mean.received[next(iter(mean.sent))].numpy(), expected, atol=1e-4)


def test_vectors_that_do_not_fit_the_model_are_no_aggregate(tmp_path: Path) -> None:
    def shorter(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
        reply = call_next(message, context)
        record: Any = reply.content.config_records[RECORD_KEY_CONFIGS]
        if Key.MASKED_PARAMETERS in record:
            record[Key.MASKED_PARAMETERS] = record[Key.MASKED_PARAMETERS][:-1]
        return reply

    recorder = Recorder(tmp_path)
    federate(lambda grid: AuditGrid(grid, recorder), mods=[shorter])
    assert not list_captures(tmp_path / "captures", "none")
    assert "3 masked arrays do not fit the 3 arrays of the model" in recorder.secure.problems[1]
