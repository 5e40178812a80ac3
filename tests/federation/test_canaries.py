"""What our code takes for granted about Flower beyond its documentation. A red test here: a new flwr."""

import inspect
import os
import subprocess
import sys

import pytest
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import constant
from flwr.serverapp import strategy
from flwr.simulation.run_simulation import _run_simulation
from flwr.supercore import telemetry
from flwr.supercore.task_identity import TaskIdentity

from fl_audit.federation import _flwr_private as private


def test_constants_are_flowers() -> None:
    assert constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION == private.CLIENT_FAILED
    assert constant.ErrorCode.UNKNOWN == 0
    assert private.SERVER_NODE == constant.SUPERLINK_NODE_ID
    assert constant.SType.NUMPY == "numpy.ndarray"
    assert (constant.PARTITION_ID_KEY, constant.NUM_PARTITIONS_KEY) == ("partition-id", "num-partitions")


def test_messages_take_run_and_sender_from_the_identity_which_is_restored() -> None:
    before = [getattr(TaskIdentity, name) for name in private._IDENTITY]
    with private.task_identity(77):
        message = Message(RecordDict(), 5, MessageType.TRAIN)
        assert (message.metadata.run_id, message.metadata.src_node_id) == (77, constant.SUPERLINK_NODE_ID)
        private.set_message_id(message, "x")
        assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "x"
        copy = Message(RecordDict(), metadata=message.metadata)  # type: ignore[call-overload]
        assert copy.metadata.message_id == "x"
    assert [getattr(TaskIdentity, name) for name in private._IDENTITY] == before


def test_a_message_without_identity_still_raises() -> None:
    """If Flower ever gives it a default, `task_identity` can go."""
    if getattr(TaskIdentity, "_run_id") is None:  # noqa: B009  # mypy takes it for an int
        with pytest.raises(RuntimeError):
            Message(RecordDict(), 5, MessageType.TRAIN)


def test_an_empty_run_knows_its_id() -> None:
    assert private.empty_run(9).run_id == 9


def test_the_simulation_takes_what_we_give_it() -> None:
    parameters = inspect.signature(_run_simulation).parameters
    assert {"num_supernodes", "exit_event", "client_app", "server_app", "backend_config"} <= set(parameters)
    assert hasattr(telemetry.EventType, "PYTHON_API_RUN_SIMULATION_LEAVE")


def test_our_query_names_are_message_types_that_client_apps_route() -> None:
    from fl_audit.federation.truth import HELLO, TAKE_TRUTH

    app = ClientApp()
    app.query("fl_audit_hello")(lambda message, context: Message(RecordDict(), reply_to=message))
    with private.task_identity(1):
        for kind in (HELLO, TAKE_TRUTH):
            message = Message(RecordDict(), 5, kind)
            private.set_message_id(message, "m")
        message = Message(RecordDict(), 5, HELLO)
        private.set_message_id(message, "m")
        assert app(message, Context(1, 5, {}, RecordDict(), {})).has_content()


def test_strategies_start_on_the_grid_they_are_given() -> None:
    for cls in (strategy.FedAvg, strategy.DifferentialPrivacyServerSideFixedClipping):
        assert next(iter(inspect.signature(cls.start).parameters.values())).name == "self"
        assert list(inspect.signature(cls.start).parameters)[1] == "grid"


def test_telemetry_is_off_before_flower_loads() -> None:
    code = (
        "import fl_audit.federation, os\n"
        "from flwr.supercore import telemetry\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "RAY_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.split() == ["0", "0"]
