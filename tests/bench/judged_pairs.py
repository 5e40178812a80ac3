"""How far SemSim, the legacy metrics and the rule of recognisability follow the judged pairs. Prints a table.

Run: ``FL_AUDIT_TEST_DATA=FOLDER python tests/bench/judged_pairs.py``. Validation only: nothing is trained or
calibrated on these pairs. Their judge was a vision-language model, not people. SemSim's recipe was settled
with some looks at these figures; its model card says how many.
"""

import io
import json
import os
import sys
import zipfile
from pathlib import Path

import torch
from PIL import Image
from scipy.stats import spearmanr

from fl_audit.core.images import from_pil
from fl_audit.metrics import RecognisabilityRule, metrics
from fl_audit.semsim.evaluation import auc


def main() -> int:
    """Print one block per part; 2 if the data is not there."""
    folder = os.environ.get("FL_AUDIT_TEST_DATA")
    path = Path(folder) / "judged-pairs.zip" if folder else None
    if path is None or not path.is_file():
        sys.stderr.write("FL_AUDIT_TEST_DATA names no folder with judged-pairs.zip\n")
        return 2
    for part, pairs in read(path).items():
        sys.stdout.write(report(part, pairs))
    return 0


Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def read(path: Path) -> dict[str, Part]:
    """Originals, reconstructions, judgements and class numbers by part (``plain-caltech101`` …)."""
    with zipfile.ZipFile(path) as archive:

        def image(name: str) -> torch.Tensor:
            return from_pil(Image.open(io.BytesIO(archive.read(f"judged-pairs/{name}.png"))), 3)

        parts: dict[str, list[dict[str, object]]] = {}
        for pair in json.loads(archive.read("judged-pairs/labels.json"))["pairs"]:
            parts.setdefault(str(pair["id"]).rsplit("-", 1)[0], []).append(pair)
        result = {}
        for part, pairs in parts.items():
            names = sorted({str(pair["cls"]) for pair in pairs})
            result[part] = (
                torch.stack([image(f"{pair['id']}_ori") for pair in pairs]),
                torch.stack([image(f"{pair['id']}_rec") for pair in pairs]),
                torch.tensor([float(str(pair["label"])) for pair in pairs]),
                torch.tensor([names.index(str(pair["cls"])) for pair in pairs]),
            )
        return result


def report(part: str, pairs: Part) -> str:
    """Spearman of each metric, and the rule's agreement on the pairs judged 1 or 0."""
    originals, reconstructions, judged, _ = pairs
    lines = [f"{part}: {len(judged)} pairs"]
    for name in ("mse", "psnr", "ssim", "semsim"):
        unit = metrics.create(name)
        sign = 1 if unit.better == "higher" else -1
        values = sign * unit.score(originals, reconstructions)
        area = auc(values[judged == 1], values[judged == 0])
        lines.append(
            f"  {name:6} Spearman {spearmanr(values, judged).statistic:.3f}, AUC (1 against 0) {area:.4f}"
        )
    rule = RecognisabilityRule()
    verdict = rule.judge({rule.metric: metrics.create(rule.metric).score(originals, reconstructions)})
    clear = judged != 0.5
    agree = (verdict == (judged == 1))[clear].double().mean()
    missed = (~verdict & (judged == 1)).sum()
    alarms = (verdict & (judged == 0)).sum()
    lines.append(
        f"  {rule.name}: agrees on {agree:.1%} of {int(clear.sum())} pairs judged 1 or 0 "
        f"(missed {int(missed)} of {int((judged == 1).sum())} recognisable, {int(alarms)} false alarms of "
        f"{int((judged == 0).sum())}); half-recognised pairs "
        f"called recognisable: {int((verdict & ~clear).sum())} of {int((~clear).sum())}"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
