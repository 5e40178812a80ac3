"""Habits of apps that are no mistakes: sampled clients, rounds from 0, frozen layers, layers of one's own."""

from pathlib import Path

import torch

from fl_audit.core.captures import list_captures, read_truth, read_update
from fl_audit.core.files import read_tensors
from fl_audit.federation.apps.job import FROZEN
from tests.e2e.apps import CLIENT, SERVER, TASK, write_app
from tests.federation.test_apps import run

LOOP = """
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

from {package}.task import get_model

app = ServerApp()


@app.main()
def main(grid, context):
    arrays = ArrayRecord(get_model(32).state_dict())
    for number in range(3):
        content = RecordDict({{"arrays": arrays, "config": ConfigRecord({{"lr": 0.1}})}})
        # The last client, too: another one in each round.
        node = sorted(grid.get_node_ids())[-1 - number % 2]
        replies = list(grid.send_and_receive([Message(content, node, "train", group_id=str(number))]))
        arrays = replies[0].content["arrays"]
"""


def test_rounds_from_zero_of_clients_with_any_number_are_captured_with_their_truth(tmp_path: Path) -> None:
    app = write_app(tmp_path, package="looping", server=LOOP)
    outcome = run(app, tmp_path / "out", clients=4, attacked=1, rounds=[1, 3])
    assert outcome.failure is None
    assert outcome.rounds == [1, 2, 3]
    assert outcome.truth_missing == []
    keys = list_captures(tmp_path / "out/captures", "none")
    assert [key.round for key in keys] == [1, 3]
    for key in keys:
        assert len(read_truth(tmp_path / "out/truth", key).images) == 1


def test_of_sampled_clients_the_lowest_numbers_are_captured_one_message_at_a_time_too(tmp_path: Path) -> None:
    server = LOOP.replace("range(3)", "range(1)").replace(
        "        replies = list(grid.send_and_receive([Message(content, node,",
        "        for node in sorted(grid.get_node_ids())[::-1]:\n"
        "            replies = list(grid.send_and_receive([Message(content, node,",
    )
    app = write_app(tmp_path, package="one_by_one", server=server)
    outcome = run(app, tmp_path / "out", clients=3, attacked=2)
    assert outcome.failure is None
    keys = list_captures(tmp_path / "out/captures", "none")
    assert [key.client for key in keys] == [0, 1]
    assert sorted(path.stem for path in (tmp_path / "out/truth/none").glob("*.safetensors")) == [
        key.stem for key in keys
    ]


def test_frozen_values_that_do_not_travel_are_kept_and_own_ones_are_said(tmp_path: Path) -> None:
    """The first layer is frozen and drawn anew; the last one's bias stays with each client."""
    task = TASK.replace(
        "    return Net(hidden)", "    net = Net(hidden)\n    net.first.requires_grad_(False)\n    return net"
    )
    client = CLIENT.replace(
        'model.load_state_dict(message.content["arrays"].to_torch_state_dict())',
        'model.load_state_dict(message.content["arrays"].to_torch_state_dict(), strict=False)\n'
        "    torch.nn.init.constant_(model.first.weight, 0.125)",
    ).replace("    {before}\n", "    torch.nn.init.ones_(model.last.bias)\n")
    travels = "ArrayRecord(dict(model.last.state_dict(prefix='last.')))"
    first = travels.replace("model", "get_model(32)")
    app = write_app(
        tmp_path,
        package="frozen",
        task=task,
        client=client.replace("ArrayRecord(model.state_dict())", travels),
        server=SERVER.replace("ArrayRecord(get_model(32).state_dict())", first),
    )
    outcome = run(app, tmp_path / "out", attacked=1)
    assert outcome.failure is None
    assert outcome.recipe is not None
    (key,) = list_captures(tmp_path / "out/captures", "none")
    assert list(read_update(tmp_path / "out/captures", key).received) == ["last.weight", "last.bias"]
    kept = read_tensors(tmp_path / "out/process" / FROZEN)
    assert torch.equal(kept["first.weight"], torch.full((32, 64), 0.125))
    assert "last.weight" not in kept
    (note,) = [note for note in outcome.notes if "values of their own" in note]
    assert "last.bias" in note
    assert "last.weight" not in note
