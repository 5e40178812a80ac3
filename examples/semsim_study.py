"""The SemSim paper's study, repeated: which setting leaks most depends on the metric that is asked.

    python examples/semsim_study.py --data DIR --out STUDY --quick
    python examples/semsim_study.py --data DIR --out STUDY --images 43 --train-steps 2000

Sun et al., "Privacy Assessment on Reconstructed Images: Are Existing Evaluation Metrics Faithful to Human
Perception?" (NeurIPS 2023) rank settings by how much of the images a gradient inversion gives away, by each
metric and by people's answers. Settings: ResNet20-4 and ConvNet; trained on plain images and on crops; under
the ATS policies 3-1-7, 43-18-18 and both; with updates pruned by 70%; with Gaussian noise of 1e-3 on the
gradient. In each, the same images are the single image of a client each; the attack is inverting gradients
with labels known (threat level C).

DIR holds cifar10-jpeg.zip and caltech101-64.zip; attacked are pictures that the packaged SemSim was not
trained on. **Labels**: no people were asked. Unless ``--labels FILE`` has people's answers on the pairs (the
formats of ``fl-audit metrics --labels``; pairs are called as in STUDY/labels.json), they are those of the
recognisability oracle, which SemSim was trained on: read its agreement with care.

STUDY gets pairs/ (pictures), victims/ (what clients trained on), settings/ (scores), study.json (everything),
study.md (tables), study.png (all pictures), study.html (the page of ``fl-audit metrics``) and labels.json
(the oracle's). Ctrl-C keeps the settings that are finished; the same command goes on.

Cost: on one busy core an iteration of one image took 0.31 s on ResNet20-4 and 0.52 s on ConvNet, a step of
the training before it 3 s and 8 s, so that the paper's size (600 images; 1,000 iterations, 2,000 steps) is
about 100 core hours: use a GPU (--device cuda), or fewer images and iterations and narrower networks.
``--quick`` proves the plumbing, with narrow networks.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from _semsim_study.attacking import Place, attack_setting
from _semsim_study.eta import Eta
from _semsim_study.outputs import write_figures
from _semsim_study.records import Done, Options
from _semsim_study.settings import WAYS, Setting
from _semsim_study.table import table

from fl_audit.attacks import attacks
from fl_audit.core.errors import AuditError, ConfigError
from fl_audit.core.files import read_model, write_json
from fl_audit.models import models
from fl_audit.run.attack_stage import pick_device
from fl_audit.semsim.material import picture_sets

SETS = {"cifar10": "CIFAR-10 (JPEG)", "caltech101": "Caltech-101"}


@dataclass(frozen=True)
class Scale:
    """How large a study is, unless options say otherwise."""

    images: int
    attack: str
    train_steps: int
    models: tuple[str, ...]


FULL = Scale(43, "inverting-gradients:iterations=1000", 2000, ("resnet20-4", "convnet"))
"""The paper's size: 14 settings of 43 images are 602."""
QUICK = Scale(2, "inverting-gradients:iterations=20", 5, ("resnet20-4:factor=1", "convnet:width=8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Attack what is not attacked yet, then write the figures."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    scale = QUICK if given.quick else FULL
    options = Options(
        data_set=SETS[given.set],
        images=given.images or scale.images,
        attack=given.attack or scale.attack,
        train_steps=scale.train_steps if given.train_steps is None else given.train_steps,
        seed=given.seed,
    )
    ways = [way for way in WAYS if not given.setting or way.name in given.setting]
    # Both networks early: the estimate of the time is better for it.
    settings = [Setting(model, way) for way in ways for model in given.model or scale.models]
    try:
        _check(given.out, options, settings)
        _attack_all(given, options, settings)
        done = [_read(given.out, setting) for setting in settings]
        found = write_figures(given.out, done, options, given.labels)
    except AuditError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        kept = sum(_record(given.out, setting).is_file() for setting in settings)
        sys.stderr.write(
            f"interrupted: {kept} of {len(settings)} settings are finished and kept; the same command "
            "goes on\n"
        )
        return 130
    sys.stdout.write(table(found))
    return 0


def _check(out: Path, options: Options, settings: Sequence[Setting]) -> None:
    """Raise ConfigError for a folder of another study, or for names that do not exist."""
    attacks.create(options.attack)
    for setting in settings:
        models.create(setting.model)
    path = out / "options.json"
    if path.is_file():
        before = read_model(path, Options, "the options of a study")
        other = [name for name, value in options if value != getattr(before, name)]
        if other:
            raise ConfigError(
                f"{out}: a study with {', '.join(f'{name} {getattr(before, name)}' for name in other)}, not "
                f"{', '.join(f'{getattr(options, name)}' for name in other)}. Choose another --out"
            )
    write_json(path, options.model_dump(mode="json"))


def _attack_all(given: argparse.Namespace, options: Options, settings: Sequence[Setting]) -> None:
    todo = [setting for setting in settings if not _record(given.out, setting).is_file()]
    if not todo:
        return
    place = Place(given.out, pick_device(given.device), given.together)
    sets = zip(*picture_sets(given.data), strict=True)
    training, held = next(pair for pair in sets if pair[0].name == options.data_set)
    if options.images > len(held.images):
        raise ConfigError(f"--images {options.images}: {held.name} has {len(held.images)} to attack")
    progress = Eta(len(todo))
    for setting in todo:
        done = attack_setting(setting, options, training, held, place, progress)
        write_json(_record(given.out, setting), done.model_dump(mode="json"))
        progress.advance()


def _record(out: Path, setting: Setting) -> Path:
    return out / "settings" / f"{setting.slug}.json"


def _read(out: Path, setting: Setting) -> Done:
    return read_model(_record(out, setting), Done, "a finished setting of the study")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--out", type=Path, default=Path("semsim-study"))
    add("--set", choices=SETS, default="cifar10", help="the data set")
    add("--images", type=int, help=f"attacked in each setting; default {FULL.images}")
    add("--attack", help=f"default {FULL.attack}")
    add(
        "--train-steps",
        type=int,
        help=f"of every network before the attack; default {FULL.train_steps}; 0 leaves them fresh; under "
        "about 50, batch norm's statistics have not settled and attacks fail",
    )
    add("--model", action="append", help=f"repeat; default {' and '.join(FULL.models)}")
    add("--setting", choices=[way.name for way in WAYS], action="append", help="repeat; default all")
    add("--labels", type=Path, help="people's answers on the pairs; default the oracle's labels")
    add("--quick", action="store_true", help=f"defaults of {QUICK}")
    add("--together", type=int, default=8, help="images attacked side by side")
    add("--device", default="cpu")
    add("--threads", type=int, default=1)
    add("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
