"""Which jobs share a batch, and what is left of an interrupted one."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fl_audit.cli._seconds import seconds
from fl_audit.core.captures import read_truth, write_truth
from fl_audit.core.errors import ConfigError
from fl_audit.core.files import read_json
from fl_audit.core.progress import Progress
from fl_audit.core.types import CaptureKey, Reconstruction
from fl_audit.reports.caveats import caveats
from fl_audit.reports.schema import read_findings
from fl_audit.run.attack_stage import attack_captures, places_for
from fl_audit.run.folder import RunFolder
from fl_audit.run.grade_stage import grade_run
from fl_audit.run.jobs import batches, jobs
from fl_audit.run.results import read_reconstruction, write_partial, write_reconstruction
from fl_audit.run.shown import BEYOND, MOST
from tests.e2e.conftest import audit, small

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return audit(tmp_path_factory.mktemp("jobs") / "run", small())


@pytest.fixture
def folder(finished: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(finished.root, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_clients_of_one_round_and_defense_share_a_batch(folder: RunFolder) -> None:
    config = folder.load_config()
    todo = batches(folder, jobs(folder, config), CPU)
    assert [job for batch in todo for job in batch.jobs] == jobs(folder, config)
    for batch in todo:
        assert len({(job.key.defense, job.key.round, job.spec) for job in batch.jobs}) == 1
        assert len(batch.jobs) == 2
    # What is finished changes no batch, so that a resumed run rounds as an uninterrupted one.
    todo[0].jobs[0].result.unlink()
    assert batches(folder, jobs(folder, config), CPU) == todo
    assert [batch.finished for batch in todo] == [False, *[True] * (len(todo) - 1)]


def test_large_models_and_closed_forms_go_one_by_one(folder: RunFolder) -> None:
    config = folder.load_config()
    alone = config.model_copy(update={"attack": config.attack.model_copy(update={"names": ["analytic"]})})
    assert {len(batch.jobs) for batch in batches(folder, jobs(folder, alone), CPU)} == {1}
    for file in folder.root.glob("knowledge/*/*.json"):
        file.write_text(file.read_text().replace('"lenet"', '"convnet"'))
    assert {len(batch.jobs) for batch in batches(folder, jobs(folder, config), CPU)} == {1}
    assert {len(batch.jobs) for batch in batches(folder, jobs(folder, config), torch.device("cuda"))} == {2}


def test_processes_go_where_the_devices_are() -> None:
    assert places_for(CPU, 3) == ["cpu"] * 3
    assert places_for(torch.device("cuda:1"), None) == ["cuda:1"]


class Interrupting(Progress):
    def __init__(self, after: int) -> None:
        self.left = after

    def step(self, done: int, total: int, value: float | None = None) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_ctrl_c_leaves_the_best_so_far_which_is_graded_until_the_run_goes_on(folder: RunFolder) -> None:
    config = folder.load_config()
    whole = {job: read_json(job.result) for job in jobs(folder, config)}
    shutil.rmtree(folder.reconstructions)
    with pytest.raises(KeyboardInterrupt):
        attack_captures(folder, config, Interrupting(2), CPU)
    first = batches(folder, jobs(folder, config), CPU)[0]
    assert not first.finished
    for job in first.jobs:
        partial = read_reconstruction(job.folder)
        assert partial.status == "done"
        assert any("interrupted after" in note for note in partial.notes)
    summary = grade_run(folder, config, Progress())
    assert summary.controls.positive is not None
    assert summary.controls.positive.graded == 2
    attack_captures(folder, config, Progress(), CPU)
    assert {job: read_json(job.result) for job in jobs(folder, config)} == whole
    assert not list(folder.root.rglob("partial*"))


def test_a_result_replaces_what_an_interruption_left(tmp_path: Path) -> None:
    early = Reconstruction("done", images=torch.zeros(1, 1, 2, 2), notes=("interrupted",))
    write_partial(tmp_path, early)
    assert read_reconstruction(tmp_path).notes == ("interrupted",)
    write_reconstruction(tmp_path, replace(early, notes=()))
    assert read_reconstruction(tmp_path).notes == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "reconstruction.safetensors",
        "result.json",
        "timing.json",
    ]


@pytest.mark.filterwarnings("ignore")
def test_ray_attacks_as_one_process_does(folder: RunFolder) -> None:
    pytest.importorskip("ray")
    config = folder.load_config()
    before = {job: read_json(job.result) for job in jobs(folder, config)}
    shutil.rmtree(folder.reconstructions)
    on_ray = config.model_copy(update={"federation": config.federation.model_copy(update={"engine": "ray"})})
    attack_captures(folder, on_ray, Progress(), CPU)
    assert {job: read_json(job.result) for job in jobs(folder, config)} == before


@pytest.mark.parametrize(
    ("text", "value"), [("60s", 60), ("1.5m", 90), ("90", 90), ("2h", 7200), (".5 s", 0.5)]
)
def test_durations_are_read_as_people_type_them(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0s", "-1", "1d", "soon", "nan"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="60s"):
        seconds(text)


def test_of_very_many_images_the_first_are_graded_and_drawn_and_the_rest_counted(folder: RunFolder) -> None:
    config = folder.load_config()
    job = next(job for job in jobs(folder, config) if job.key.defense == "none")
    one = read_truth(folder.truth, job.key)
    total, tried = MOST + 30, MOST + 20
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(total, *one.images.shape[1:], generator=generator)
    numbers = torch.arange(total)
    write_truth(
        folder.truth, job.key, replace(one, images=images, labels=numbers % 2, steps=numbers, indices=numbers)
    )
    # Ten have no reconstruction: they are drawn after those that have one, if there is room.
    write_reconstruction(job.folder, Reconstruction("done", images=images[10:].flip(0)))
    for picture in job.folder.glob("*.png"):
        picture.unlink()
    summary = grade_run(folder, config, Progress())
    lines = read_findings(folder.findings)
    mine = [line for line in lines if CaptureKey(line.defense, line.round, line.client) == job.key]
    assert len(mine) == total
    graded = [line.image for line in mine if line.status == "graded"]
    assert graded == list(range(10, 10 + MOST))
    assert all(line.metrics["mse"] == 0 for line in mine if line.status == "graded")
    assert {line.reason for line in mine if line.image is not None and line.image >= 10 + MOST} == {BEYOND}
    assert len(list(job.folder.glob("*_ori.png"))) == len(list(job.folder.glob("*_rec.png"))) == MOST
    assert [line.image for line in mine if line.original] == graded
    kept = read_reconstruction(job.folder).images
    assert kept is not None
    assert len(kept) == tried
    assert any(str(MOST) in text for text in caveats(summary))
