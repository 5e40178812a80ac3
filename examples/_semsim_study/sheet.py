"""One picture of the whole study: a row for each setting, a column for each image, framed by its label."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from _semsim_study.records import Done, Row
from fl_audit.reports.words import number

SCALE = 2
MOST = 16
"""Images of each setting that are shown."""
GAP, LEFT, TOP = 6, 250, 74
SIDE = 32 * SCALE + GAP
FRAMES = {1.0: (20, 150, 60), 0.5: (235, 160, 0), 0.0: (190, 190, 190)}
UNLABELLED = (255, 255, 255)


def sheet(folder: Path, done: Sequence[Done], rows: Mapping[str, Row], judge: str) -> Image.Image:
    """Originals in the first row, below them what each setting gave away.

    Args:
        folder: holds ``X_ori.png`` and ``X_rec.png`` of every pair.
        done: the settings.
        rows: of the table, by setting; their labels frame the pictures.
        judge: who gave the labels.
    """
    count = min(MOST, max(len(setting.pairs) for setting in done))
    page = Image.new("RGB", (LEFT + count * SIDE, TOP + (len(done) + 1) * SIDE), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 8), f"Labels by: {judge}", fill="black")
    draw.text((GAP, 24), "Frame: green recognisable, orange partly, grey not, none: no label", fill="black")
    draw.text((GAP, 40), "Figures are means over all images of the setting", fill="black")
    draw.text((GAP, TOP + 24), "originals", fill="black")
    for column, pair in enumerate(done[0].pairs[:count]):
        _put(page, folder / f"{pair.name}_ori.png", column, 0, UNLABELLED)
    for line, setting in enumerate(done, start=1):
        row = rows[setting.name]
        words = [
            setting.name,
            f"label {number(row.label)}",
            f"PSNR {number(row.scores['psnr'])} dB, SSIM {number(row.scores['ssim'])}",
            f"SemSim {number(row.scores['semsim'])}",
        ]
        draw.multiline_text((GAP, TOP + line * SIDE + 4), "\n".join(words), fill="black", spacing=2)
        for column, pair in enumerate(setting.pairs[:count]):
            label = row.labels.get(pair.name)
            frame = UNLABELLED if label is None else FRAMES[round(2 * label) / 2]
            path = folder / f"{pair.name}_rec.png"
            if path.is_file():
                _put(page, path, column, line, frame)
    return page


def _put(page: Image.Image, path: Path, column: int, line: int, frame: tuple[int, int, int]) -> None:
    left, top = LEFT + column * SIDE, TOP + line * SIDE
    page.paste(frame, (left, top, left + SIDE - 2, top + SIDE - 2))
    with Image.open(path) as picture:
        large = picture.convert("RGB").resize((32 * SCALE, 32 * SCALE), Image.Resampling.NEAREST)
    page.paste(large, (left + 2, top + 2))
