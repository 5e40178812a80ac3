"""The parts of engine flwr that need no federation: the overlay, connections, processes and their end."""

import os
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_audit.core.errors import ConfigError, FederationError
from fl_audit.core.types import GroundTruth, TrainingDetails
from fl_audit.federation._flwr_private import task_identity
from fl_audit.federation.apps import AppJob
from fl_audit.federation.apps import _flwr_config as flower
from fl_audit.federation.apps.job import Seen
from fl_audit.federation.apps.outcome import together
from fl_audit.federation.apps.waiting import AppWaits
from fl_audit.federation.local_engine import LocalGrid
from fl_audit.federation.overlay.grid import OverlayGrid
from fl_audit.federation.overlay.launchers import with_launchers, write_launchers
from fl_audit.federation.overlay.servers import Servers, free_port
from fl_audit.federation.overlay.spool import Spool
from fl_audit.federation.overlay.superlink import connection
from fl_audit.federation.overlay.tree import descendants
from fl_audit.federation.overlay.untold import stated, untold
from fl_audit.federation.overlay.write import write_overlay
from tests.e2e.apps import PYPROJECT, job_for, write_app


def job(out: Path, **changes: Any) -> AppJob:
    return job_for(out, engine="flwr", **changes)


def test_an_overlay_is_an_app_of_flower_with_our_components_and_the_apps_config(tmp_path: Path) -> None:
    app = write_app(tmp_path)
    listed = '[tool.flwr.app]\nfab-include = ["tiny/*.py"]'
    text = PYPROJECT.format(package="tiny").replace("[tool.flwr.app]", listed)
    (app / "pyproject.toml").write_text(text + '[tool.flwr.app.config.deep]\nname = "a"\n')
    config = flower.run_config(app, ["lr=0.5"]) | {"deep.name": "q'\"ü"}
    assert set(config) == {"num-server-rounds", "lr", "batch", "deep.name"}
    write_overlay(app, job(tmp_path, config=config), tmp_path / "job.json")
    assert flower.run_config(app, []) == config
    project = flower.project(app)  # Flower's own checks
    components = project["tool"]["flwr"]["app"]["components"]
    assert set(components.values()) == {"fl_audit_overlay_server:app", "fl_audit_overlay_client:app"}
    assert set(project["tool"]["flwr"]["app"]["fab-include"]) == {
        "tiny/*.py",
        "fl_audit_overlay_server.py",
        "fl_audit_overlay_client.py",
    }
    other = write_app(tmp_path / "other")
    write_overlay(other, job(tmp_path, server_only=True), tmp_path / "job.json")
    components = tomllib.loads((other / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "fl_audit_overlay_server:app", "clientapp": "tiny.client:app"}
    assert not (other / "fl_audit_overlay_client.py").exists()


def test_a_superlink_is_a_known_connection_or_an_address_on_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text(
        '[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n'
        '[superlink.lab]\naddress = "lab.example.org:9093"\nroot-certificates = "ca.crt"\n'
    )
    assert connection("127.0.0.1:8000") == {"address": "127.0.0.1:8000", "insecure": True}
    assert connection("[::1]:8000")["insecure"] is True
    found = connection("lab")
    assert found == {"address": "lab.example.org:9093", "root-certificates": str(tmp_path / "ca.crt")}
    for named, why in {
        "elsewhere": r"has: lab, local.*\[superlink.elsewhere\]",
        "local": "starts that simulation itself",
        "lab.example.org:9093": "on this machine alone.*root-certificates",
        "127.0.0.1:http": "expected HOST:PORT",
    }.items():
        with pytest.raises(ConfigError, match=why):
            connection(named)


def test_a_port_in_use_is_said_and_nothing_keeps_running(tmp_path: Path) -> None:
    write_launchers(tmp_path / "bin")
    environment = with_launchers(dict(os.environ), tmp_path / "bin") | {"FLWR_HOME": str(tmp_path / "flower")}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        servers = Servers(tmp_path, cwd=tmp_path, environment=environment, nodes=None, port=port)
        with pytest.raises(FederationError, match=f"port {port} of 127.0.0.1 is in use"):
            servers.__enter__()
    assert not descendants(os.getpid())


def test_a_missing_command_of_flower_is_named_with_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_audit.federation.overlay.launchers.installed", lambda: {"flwr": ("a", "b")})
    with pytest.raises(FederationError, match="flower-superlink, flower-supernode.*pip install"):
        write_launchers(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux alone")
def test_a_detached_orphan_that_ignores_the_request_to_end_is_ended(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "
        "time.sleep(99)"
    )
    parent = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)"
    )
    script = (
        "import subprocess, sys\n"
        "from fl_audit.federation.overlay.tree import adopt_orphans, descendants, end_descendants\n"
        "import os\n"
        "adopt_orphans()\n"
        f"made = subprocess.Popen([sys.executable, '-c', {parent!r}], stdout=subprocess.PIPE)\n"
        "made.wait(); made.stdout.readline()\n"
        "(left,) = descendants(os.getpid())\n"
        "print(left, end_descendants(0.2), flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    pid, rest = done.stdout.split(maxsplit=1)
    assert rest.strip() == "set()"
    stat = Path(f"/proc/{pid}/stat")  # who has ended may still wait for whoever adopts it next
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


class SlowGrid(LocalGrid):
    """Answers a message only after so many seconds, as a SuperNode that is busy does."""

    delay = 0.0

    def pull_messages(self, message_ids: Any) -> Any:
        if time.monotonic() < self.since + self.delay:
            return []
        return super().pull_messages(message_ids)

    since = 0.0


def slow_grid(delay: float, limit: float) -> tuple[OverlayGrid, list[int]]:
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Any) -> Message:
        return Message(RecordDict(), reply_to=message)

    grid = SlowGrid(app, clients=2, seed=0, run_id=1)
    grid.delay, grid.since = delay, time.monotonic()
    return OverlayGrid(grid, limit=limit, waiting=0.2), list(grid.get_node_ids())


@pytest.mark.parametrize("ask", ["send_and_receive", "push and pull"])
def test_who_does_not_answer_in_time_gives_one_error_and_comes_too_late(ask: str) -> None:
    with task_identity(1):
        grid, nodes = slow_grid(delay=0.9, limit=0.3)
        messages = [Message(RecordDict(), node, "query") for node in nodes]
        if ask == "send_and_receive":
            replies = list(grid.send_and_receive(messages))
            names = [reply.metadata.reply_to_message_id for reply in replies]
        else:
            names = list(grid.push_messages(messages))
            replies = []
            while len(replies) < 2:
                replies += grid.pull_messages(names)
        assert [reply.metadata.src_node_id for reply in replies] == nodes
        assert all("no answer within 0.3 s (--timeout)" in (reply.error.reason or "") for reply in replies)
        time.sleep(0.7)
        assert list(grid.pull_messages(names)) == []


def test_replies_come_in_the_order_of_their_messages_and_nodes_by_partition() -> None:
    with task_identity(1):
        grid, nodes = slow_grid(delay=0.0, limit=5.0)
        grid.arrange({node: 1 - place for place, node in enumerate(nodes)})
        assert grid.get_node_ids() == nodes[::-1]
        messages = [Message(RecordDict(), node, "query") for node in nodes[::-1]]
        replies = list(grid.send_and_receive(messages))
        assert [reply.metadata.src_node_id for reply in replies] == nodes[::-1]


def test_a_server_that_waits_for_nodes_in_vain_is_told_so() -> None:
    with task_identity(1):
        grid, _ = slow_grid(delay=0.0, limit=5.0)
        assert isinstance(grid, Grid)
        with pytest.raises(AppWaits, match=r"the 2 that there are.*--clients N"):
            ask_for_long(grid)


def ask_for_long(grid: OverlayGrid) -> None:
    end = time.monotonic() + 30.0
    while time.monotonic() < end:
        grid.get_node_ids()
        time.sleep(0.01)


def truth(side: int) -> GroundTruth:
    zeros = torch.zeros(1, dtype=torch.int64)
    return GroundTruth(torch.rand(1, 1, side, side), zeros, zeros, zeros - 1, TrainingDetails(batch_size=1))


def test_a_truth_is_taken_once_and_only_for_its_round(tmp_path: Path) -> None:
    spool = Spool(job(tmp_path))
    spool.begin()
    first = truth(4)
    spool.put_truth(2**62 + 5, 1, first)
    spool.put_truth(7, 2, truth(4))
    spool.put_truth(8, 1, truth(5))
    spool.put_truth(9, 1, "the client has no image")
    asked: Any = None
    taken = spool.take(asked, {2**62 + 5: 1, 7: 1, 8: 1, 9: 1}, 1.0)
    kept = taken[2**62 + 5]
    assert isinstance(kept, GroundTruth)
    assert torch.equal(kept.images, first.images)
    assert taken[7] == "the client recorded that of round 2 instead"
    assert taken[8] == "the images have shape (1, 5, 5), those of earlier clients (1, 4, 4)"
    assert taken[9] == "the client has no image"
    assert spool.take(asked, {7: 2}, 1.0) == {7: "the client recorded none"}
    spool.end()
    assert not list((tmp_path / "truth/.arriving").iterdir())


def test_of_several_truths_that_of_the_round_is_taken(tmp_path: Path) -> None:
    """A client that was too late in an earlier round leaves that one's after this began."""
    spool = Spool(job(tmp_path))
    spool.begin()
    own = truth(4)
    spool.put_truth(7, 3, own)
    spool.put_truth(7, 2, truth(4))
    asked: Any = None
    taken = spool.take(asked, {7: 3}, 1.0)[7]
    assert isinstance(taken, GroundTruth)
    assert torch.equal(taken.images, own.images)


def test_what_several_processes_saw_is_the_first_of_each_fact() -> None:
    parts = [Seen(recipe_missing="a lambda"), Seen(classes=10, torch=True), Seen(classes=3, loss="nll")]
    assert together(parts) == Seen(recipe_missing="a lambda", classes=10, torch=True, loss="nll")
    assert together([]) == Seen()


def test_a_process_that_only_evaluates_does_not_make_what_an_earlier_one_saw_forgotten(
    tmp_path: Path,
) -> None:
    spool = Spool(job(tmp_path))
    spool.begin()
    training = Seen(recipe_missing="a lambda", image_shape=(1, 8, 8), classes=10, loss="nll", torch=True)
    for seen in (training, Seen(image_shape=(1, 8, 8), torch=True, half=True)):
        spool.put_seen(7, seen)
    assert spool.seen() == [training.model_copy(update={"half": True})]


def test_a_server_only_audit_knows_what_it_is_told_and_names_the_rest(tmp_path: Path) -> None:
    app = write_app(tmp_path, package="stated")
    task = app / "stated/task.py"
    task.write_text(task.read_text() + "\n\ndef build():\n    return Net(32)\n")
    nothing = stated(job(tmp_path), None, Seen())
    assert untold(job(tmp_path), nothing) == [
        "--model module:function",
        "--image-shape C,H,W (or --truth)",
        "--input-range LOW,HIGH",
    ]
    told = job(tmp_path, model="stated.task:build", input_range=(-1.0, 1.0))
    seen = stated(told, (1, 8, 8), Seen())
    assert untold(told, seen) == []
    assert (seen.classes, seen.image_shape, seen.parameters) == (10, (1, 8, 8), 64 * 32 + 32 + 320 + 10)
    assert seen.recipe is not None
    assert (seen.recipe.mean, seen.recipe.std, seen.recipe.flat) == ([0.5], [0.5], False)
    colours = job(tmp_path, model="stated.task:build", input_range=(-1.0, 1.0, 0.0, 1.0, -2.0, 2.0))
    each = stated(colours, (1, 8, 8), Seen())
    assert each.normalisation == "--input-range -1,1,0,1,-2,2"
    wrong = stated(told, (3, 9, 9), Seen())
    assert wrong.recipe is None
    assert "does not take images of shape (3, 9, 9)" in str(wrong.recipe_missing)
