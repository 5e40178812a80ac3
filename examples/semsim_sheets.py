"""Draw pairs that SemSim's oracle was fitted to, as sheets of 25, with what was answered.

    python examples/semsim_sheets.py --data DIR --out SHEETS --round 1 --sheets 4

DIR holds cifar10-jpeg.zip, caltech101-64.zip and judged-pairs.zip. The original is on the left; beside the
sheets lies answers.json: 0 nothing of it can be seen, 1 hardly anything, 2 partly, 3 recognisable though
degraded, 4 clearly recognisable. The pairs are those that were judged, in an order of their own, not the
sheets of then. To ask people instead, hand them the sheets, and in a checkout put their digits in place of
those in audit/semsim/weights/judgements.json; then fit the oracle anew and train on both:

    python -m fl_audit.semsim.judgements --data DIR --out audit/semsim/weights/oracle.safetensors
    python -m fl_audit.semsim.recipe --data DIR --out WEIGHTS
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fl_audit.core.errors import AuditError
from fl_audit.core.files import write_text
from fl_audit.core.seeding import torch_generator
from fl_audit.semsim.judgements import make_pairs, read
from fl_audit.semsim.material import PHOTOGRAPHS, picture_sets

ACROSS, DOWN = 5, 5
EACH = ACROSS * DOWN
SIDE, GAP, HEAD = 144, 24, 22


def main() -> int:
    """Write the sheets and the answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--round", type=int, default=1, help="which round of answers, from 1")
    parser.add_argument("--sheets", type=int, default=4, help="at most so many")
    options = parser.parse_args()
    try:
        rounds = read()
        if not 1 <= options.round <= len(rounds):
            parser.error(f"--round takes 1 to {len(rounds)}, not {options.round}")
        sets, _ = picture_sets(options.data)
        one = rounds[options.round - 1]
        originals, reconstructions, _ = make_pairs(sets[:PHOTOGRAPHS], one)
    except AuditError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    options.out.mkdir(parents=True, exist_ok=True)
    said = {}
    order = torch.randperm(len(one.pairs), generator=torch_generator(one.seed, "shown")).tolist()
    for number in range(min(options.sheets, -(-len(order) // EACH))):
        rows = order[number * EACH : (number + 1) * EACH]
        name = f"sheet{number}"
        sheet([(originals[row], reconstructions[row]) for row in rows]).save(options.out / f"{name}.png")
        said[name] = [{"pair": one.pairs[row], "answer": one.answers[row]} for row in rows]
    write_text(options.out / "answers.json", json.dumps(said, indent=1))
    sys.stdout.write(f"{options.out}: {len(said)} sheets, {sum(map(len, said.values()))} pairs\n")
    return 0


def sheet(pairs: list[tuple[Tensor, Tensor]]) -> Image.Image:
    """One sheet of numbered pairs, uint8 ``(3, 32, 32)`` each, enlarged."""
    image = Image.new("RGB", (ACROSS * (2 * SIDE + GAP), DOWN * (SIDE + HEAD)), "white")
    draw = ImageDraw.Draw(image)
    for place, pair in enumerate(pairs):
        x, y = place % ACROSS * (2 * SIDE + GAP), place // ACROSS * (SIDE + HEAD)
        for column, picture in enumerate(pair):
            small = Image.fromarray(picture.permute(1, 2, 0).numpy())
            large = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            image.paste(large, (x + 2 + column * (SIDE + 2), y + HEAD - 4))
        draw.text((x + SIDE - 14, y + 2), str(place + 1), fill="black", font_size=15)
    return image


if __name__ == "__main__":
    raise SystemExit(main())
