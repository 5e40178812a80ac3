"""The training of SemSim end to end: ``python -m fl_audit.semsim.recipe --data DIR``.

DIR holds cifar10-jpeg.zip, caltech101-64.zip and judged-pairs.zip, which is never trained on: its originals
are left out, and the answers about pairs of pictures belong to those that remain. The model card says what
the figures mean. It takes about 45 minutes on two cores.
"""

import argparse
import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from fl_audit.core.errors import AuditError
from fl_audit.core.files import write_text
from fl_audit.core.progress import Progress
from fl_audit.core.seeding import torch_generator
from fl_audit.semsim.calibration import Calibration, fit
from fl_audit.semsim.card import card
from fl_audit.semsim.evaluation import Agreement, agreement
from fl_audit.semsim.judged import Judged, judged_pairs
from fl_audit.semsim.judgements import Judgements, read
from fl_audit.semsim.lite import joined
from fl_audit.semsim.material import HELD_OUT, NAMES, PHOTOGRAPHS, picture_sets
from fl_audit.semsim.network import BACKBONES, Backbone, distance
from fl_audit.semsim.oracle import ANSWERS, labels
from fl_audit.semsim.pairs import SIZE, answered, batches
from fl_audit.semsim.pictures import Pictures
from fl_audit.semsim.reconstructions import Reconstructions
from fl_audit.semsim.settings import Settings
from fl_audit.semsim.train import LOSSES, Schedule, train
from fl_audit.semsim.weights import NAME, Weights, load, save


class Lines(Progress):
    """A line on standard error every 50 steps, with the time that is left.

    Args:
        trainings: how many there will be, one after the other.
        clock: seconds.
    """

    def __init__(self, trainings: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._trainings, self._clock = trainings, clock
        self._done, self._began = 0, clock()

    def begin(self, label: str) -> None:
        """A training begins; the time before it, for reading data, says nothing of the time to go."""
        del label
        self._began = self._clock()

    def step(self, done: int, total: int, value: float | None = None) -> None:
        """See `Progress`."""
        if done % 50 and done < total:
            return
        left = (self._clock() - self._began) / done * ((self._trainings - self._done) * total - done)
        sys.stderr.write(
            f"training {self._done + 1} of {self._trainings}, step {done} of {total}, loss {value or 0:.4f}, "
            f"about {left / 60:.0f} min to go\n"
        )

    def advance(self) -> None:
        """A training is over."""
        self._done += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, calibrate, measure, and write the weight file with its card."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
        weights, figures = run(options.data, settings, options.out)
    except AuditError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: trainings that were over are kept; the same command goes on\n")
        return 130
    write(options.out, weights, figures, settings)
    for path in _kept(options.data, settings, options.out):
        path.unlink(missing_ok=True)
    for name, found in figures.items():
        sys.stdout.write(f"{name}: {found}\n")
    return 0


def write(out: Path, weights: Weights, figures: dict[str, Agreement], settings: Settings) -> str:
    """Write the weight file and its card into a folder; the file's SHA-256."""
    path = out / f"{NAME}.safetensors"
    digest = save(path, weights, {"command": settings.command()})
    text = card(replace(weights, sha256=digest), figures, settings, path.stat().st_size)
    write_text(out / "MODEL_CARD.md", text)
    sys.stdout.write(f"{path}, SHA-256 {digest}\n")
    return digest


def run(data: Path, settings: Settings, out: Path) -> tuple[Weights, dict[str, Agreement]]:
    """The whole recipe; the weights and how far they agree with what was held out.

    Args:
        data: folder with the data sets.
        settings: what is asked for.
        out: folder that keeps each training that is over, so that the next call goes on from there.

    Raises:
        MissingDataError: a data set is missing.
        ConfigError: these pictures were not judged.
    """
    rounds = read()
    training, held = picture_sets(data)
    real = None if settings.reconstructions is None else Reconstructions.read(settings.reconstructions)
    seen, unseen = (None, None) if real is None else real.split(HELD_OUT)
    judged, unjudged = Judgements.make(training[:PHOTOGRAPHS], rounds).split()
    if settings.without is not None:
        training, held, judged, unjudged = _left_out(settings.without, training, held, judged, unjudged)

    kept = _kept(data, settings, out)
    lines = Lines(len([path for path in kept if not path.is_file()]))
    for own, path in zip(settings.seeds, kept, strict=True):
        if path.is_file():
            sys.stderr.write(f"{path}: trained before\n")
            continue
        network = train(
            batches(training, seen, torch_generator(own, "pairs")),
            beside=answered(judged, torch_generator(own, "judged pairs")),
            backbone=settings.part,
            loss=settings.loss,
            schedule=Schedule(settings.steps, minutes=settings.minutes and settings.minutes / len(kept)),
            seed=own,
            progress=lines,
        )
        save(path, Weights(settings.part, network, Calibration(0.0, 1.0)))
    # Rounded to half precision, as the file will hold them.
    parts = [load(path, backbone=settings.part).network for path in kept]
    return finish(
        parts[0] if len(parts) == 1 else joined(parts),
        settings.backbone,
        held,
        unseen,
        judged_pairs(data / "judged-pairs.zip"),
        settings.seed,
        answered=unjudged,
    )


def _kept(data: Path, settings: Settings, out: Path) -> list[Path]:
    """Where the trainings that are over are kept, one for each seed; others' have other names."""
    key = hashlib.sha256(f"{NAME} {settings} {data.resolve()}".encode()).hexdigest()[:12]
    return [out / f"unfinished-{key}-{own}.safetensors" for own in settings.seeds]


def _left_out(
    name: str,
    training: Sequence[Pictures],
    held: Sequence[Pictures],
    judged: Judgements,
    unjudged: Judgements,
) -> tuple[list[Pictures], list[Pictures], Judgements, Judgements]:
    """What is trained on without a data set and the answers about it, and what of that set is measured on."""
    number = NAMES.index(name)
    return (
        [pictures for pictures in training if pictures.name != name],
        [pictures for pictures in held if pictures.name == name],
        judged.part(judged.picture_set != number),
        unjudged.part(unjudged.picture_set == number),
    )


def finish(
    network: nn.Module,
    backbone: Backbone,
    held: Sequence[Pictures],
    unseen: Reconstructions | None,
    judged: dict[str, Judged],
    seed: int,
    pairs: int = 6000,
    answered: Judgements | None = None,
) -> tuple[Weights, dict[str, Agreement]]:
    """Calibrate on half of the held-out pairs; measure on the other, on answers, and on judged pairs."""
    distances, answers = held_out_pairs(network, held, unseen, seed, pairs)
    half = len(distances) // 2
    calibration = fit(distances[:half], answers[:half])
    figures = {"held-out oracle labels": agreement(distances[half:], answers[half:], calibration)}
    if unseen is not None:
        figures["held-out reconstructions"] = agreement(
            distance(network, unseen.original.float() / 255, unseen.reconstruction.float() / 255),
            labels(unseen.grades()),
            calibration,
        )
    if answered is not None:
        figures["held-out answers"] = agreement(
            distance(network, answered.originals.float() / 255, answered.reconstructions.float() / 255),
            labels(answered.answers / ANSWERS),
            calibration,
        )
    for name, part in judged.items():
        figures[f"judged {name}"] = agreement(
            distance(network, part.originals, part.reconstructions), part.answers, calibration
        )
    return Weights(backbone, network, calibration), figures


def held_out_pairs(
    network: nn.Module, held: Sequence[Pictures], unseen: Reconstructions | None, seed: int, pairs: int
) -> tuple[Tensor, Tensor]:
    """Distances and the oracle's labels of new pairs; a third show another picture and are labelled 0."""
    distances, answers = [], []
    source = batches(held, unseen, torch_generator(seed, "held-out pairs"))
    for batch in itertools.islice(source, -(-pairs // (3 * SIZE))):
        columns = [(batch.reconstructions[:, column], labels(batch.grades[:, column])) for column in (0, 1)]
        columns.append((batch.reconstructions[:, 0].roll(1, 0), torch.zeros(SIZE)))
        for images, answer in columns:
            distances.append(distance(network, batch.originals, images))
            answers.append(answer)
    return torch.cat(distances), torch.cat(answers)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fl_audit.semsim.recipe", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--reconstructions", type=Path, help="from examples/semsim_reconstructions.py")
    parser.add_argument("--out", type=Path, default=Path("semsim-weights"), help="folder to write to")
    parser.add_argument("--backbone", choices=BACKBONES, default=Settings.backbone)
    parser.add_argument("--loss", choices=LOSSES, default=Settings.loss)
    parser.add_argument("--scale", type=float, default=Settings.scale, help="of the number of steps")
    parser.add_argument("--minutes", type=float, help="end after this much processor time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--without", help="a data set to leave out of training, and to measure on alone")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
