"""Our attacks beside breaching's, on the same weights, images and updates, one after the other on the CPU.

    FL_AUDIT_TEST_DATA=FOLDER python tests/bench/against_breaching.py --breaching-python ENV/bin/python
        [--cases convnet-1,convnet-4,…] [--ours SPEC …] [--threads 2] [--out FILE.json] [--smoke]

Needs a second environment with breaching 0.1.2, see `_breaching_worker.py` for its one pip command, and a
quiet machine. Prints a markdown table; ``--out`` holds every update with breaching's course over time.

Architectures are breaching's own, their weights drawn there with seed 0; our definition of each loads them,
and the run stops unless logits agree to 1e-5 and gradients to 1e-3. Images are CIFAR-10 (JPEG) test images,
the first of each class, then the second, and so on. An update is SGD at step size 0.1 in eval mode, as
float32 weights; breaching gets the difference, divided by the step size where it is one step. Breaching has
one start, true labels, and its own step size schedule over the iterations named; its time is that of
``reconstruct``. Ours is that of ``Attack.run``; labels are inferred where the table does not say given.
Sides alternate update by update after a short attack by each that is not counted. PSNR is of pixels in
[0, 1], of the image that the attack itself chose, matched one to one within an update, and computed
outside the time measured.
"""

import argparse
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # it is run as a script

import torch  # noqa: E402  # after the path, like what follows
from torch import Tensor  # noqa: E402

from fl_audit.attacks import attacks  # noqa: E402
from fl_audit.core.errors import AuditError  # noqa: E402
from fl_audit.metrics import arrange, match, psnr  # noqa: E402
from tests.bench._breaching import Attacked, Breaching  # noqa: E402
from tests.bench._cases import CASES, Case, Labels, smoke  # noqa: E402
from tests.bench._data import data_file  # noqa: E402
from tests.bench._results import Attempt, save, table, verdicts  # noqa: E402
from tests.bench._samples import Sample, samples  # noqa: E402

CPU = torch.device("cpu")

CALIBRATION = 8
"""Iterations of the short attack from which breaching's speed is taken; the first two do not count."""


def main() -> int:
    """Run the cases asked for; 2 if the data is not there."""
    arguments = parse()
    archive = data_file("cifar10-jpeg.zip")
    if archive is None:
        return 2
    torch.set_num_threads(arguments.threads)
    attempts: list[Attempt] = []
    with tempfile.TemporaryDirectory() as name:
        exchange = Path(name)
        with Breaching(
            arguments.breaching_python,
            exchange,
            threads=arguments.threads,
            overrides=tuple(arguments.breaching_set),
            log=exchange / "breaching.log",
        ) as breaching:
            for case_name, case in chosen(arguments).items():
                for sample in samples(case, breaching, archive, small=arguments.smoke):
                    for attempt in side_by_side(case_name, case, sample, breaching):
                        attempts.append(attempt)
                        sys.stderr.write(f"{attempt.progress()}\n")
                        if arguments.out:
                            save(arguments.out, attempts, vars(arguments), breaching.versions)
    sys.stdout.write(table(attempts) + "\n" + verdicts(attempts))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--breaching-python", required=True, help="Python of breaching's environment")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument(
        "--ours",
        action="append",
        default=[],
        metavar="[CASE@]SPEC",
        help="our attack, instead of the defaults of CASE or of all cases; may be repeated. {iterations} "
        "in it becomes as many as fill the seconds of the case, {seconds} those",
    )
    parser.add_argument("--updates", type=int, help="updates attacked in each case")
    parser.add_argument("--seconds", type=float, help="wall time of each attack in cases of equal time")
    parser.add_argument("--iterations", type=int, help="breaching's iterations in the other cases")
    parser.add_argument("--threads", type=int, default=2, help="threads of each side")
    parser.add_argument(
        "--breaching-set", action="append", default=[], metavar="KEY=VALUE", help="e.g. attack.optim.warmup=0"
    )
    parser.add_argument("--out", type=Path, help="JSON with every update")
    parser.add_argument("--smoke", action="store_true", help="a minute's run that proves the plumbing only")
    arguments = parser.parse_args()
    unknown = set(arguments.cases.split(",")) - set(CASES)
    if unknown:
        parser.error(f"unknown cases {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    return arguments


def chosen(arguments: argparse.Namespace) -> dict[str, Case]:
    """The cases asked for, with what the command line changes in them."""
    result = {}
    for name in arguments.cases.split(","):
        case = smoke(CASES[name]) if arguments.smoke else CASES[name]
        own = [text.removeprefix(f"{name}@") for text in arguments.ours if text.startswith(f"{name}@")]
        own = own or [text for text in arguments.ours if text.partition("@")[0] not in CASES]
        case = replace(case, ours=tuple(own) or case.ours, updates=arguments.updates or case.updates)
        case = replace(case, seconds=arguments.seconds or case.seconds)
        if case.iterations is not None:
            case = replace(case, iterations=arguments.iterations or case.iterations)
        for spec in case.ours:
            attacks.create(filled(spec, 1, 1.0))  # a misspelt one shows at once
        result[name] = case
    return result


def side_by_side(name: str, case: Case, sample: Sample, breaching: Breaching) -> list[Attempt]:
    """Breaching's attempt on one update and then each of ours."""
    number = sample.update.key.client

    def theirs(iterations: int, every: int) -> Attacked:
        return breaching.attack(
            sample.built,
            case.preset,
            sample.array,
            sample.labels,
            local=sample.local,
            iterations=iterations,
            seed=number,
            every=every,
        )

    warm = theirs(CALIBRATION if case.iterations is None else 2, 1)
    iterations = case.iterations
    if iterations is None:
        if len(warm.iterates) < CALIBRATION:
            raise SystemExit(
                f"{name}: breaching stops after {warm.iterations} iterations, too few to time it"
            )
        (first, start, _), (last, end, _) = warm.iterates[1], warm.iterates[-1]
        iterations = max(2, round(case.seconds * (last - first) / (end - start)))
    attacked = theirs(iterations, max(1, iterations // 50))
    course = [(step, at, mean(scores(sample, images))) for step, at, images in attacked.iterates]
    result = [
        Attempt(
            case=name,
            side="breaching",
            spec=case.preset[0].partition("=")[2],
            update=number,
            labels="given",
            seconds=attacked.seconds,
            iterations=attacked.iterations,
            psnr=scores(sample, attacked.images),
            model=sample.note,
            course=course,
            problem=None if attacked.converged else "its objective is not finite; it returns a grey image",
        )
    ]
    for labels in case.labels:
        attack(sample, "inverting-gradients:iterations=2", labels)  # warms up
        for spec in case.ours:
            result.append(ours(name, sample, fitted(sample, spec, labels, case.seconds), labels))
    return result


def ours(name: str, sample: Sample, spec: str, labels: Labels) -> Attempt:
    """One attempt of ours."""
    seconds, iterations, images, problem = attack(sample, spec, labels)
    count = len(sample.images)
    return Attempt(
        case=name,
        side="fl-audit",
        spec=spec,
        update=sample.update.key.client,
        labels=labels,
        seconds=seconds,
        iterations=iterations,
        psnr=[math.nan] * count if images is None else scores(sample, images),
        model=sample.note,
        course=[],
        problem=problem,
    )


def attack(sample: Sample, spec: str, labels: Labels) -> tuple[float, int, Tensor | None, str | None]:
    """Seconds, iterations, images or None, and why there are none."""
    knowledge = sample.knowledge if labels == "given" else replace(sample.knowledge, labels=None)
    unit = attacks.create(spec)
    start = time.perf_counter()
    found = unit.run(sample.update, knowledge, seed=sample.update.key.client, device=CPU)
    return time.perf_counter() - start, found.iterations, found.images, found.reason


def fitted(sample: Sample, spec: str, labels: Labels, seconds: float) -> str:
    """``spec`` with the iterations that fill ``seconds``, from two short attacks that are not counted."""
    if "{iterations}" not in spec:
        return filled(spec, 0, seconds)
    short, long = (attack(sample, filled(spec, count, seconds), labels) for count in (2, CALIBRATION))
    each = max((long[0] - short[0]) / max(long[1] - short[1], 1), 1e-6)
    return filled(spec, max(2, round((seconds - short[0]) / each) + short[1]), seconds)


def filled(spec: str, iterations: int, seconds: float) -> str:
    """``spec`` without placeholders."""
    return spec.replace("{iterations}", str(iterations)).replace("{seconds}", f"{seconds:g}")


def scores(sample: Sample, images: Tensor) -> list[float]:
    """PSNR of each original with its match, dB."""
    return psnr(sample.images, arrange(images, match(sample.images, images))).tolist()


def mean(values: list[float]) -> float:
    """The mean; NaN if one is."""
    return sum(values) / len(values)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except AuditError as error:
        raise SystemExit(str(error)) from None
