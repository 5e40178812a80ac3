"""Originals beside reconstructions: which are shown, in which order, and how they enter the page."""

import base64
import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fl_audit.reports.order import by_name, leak_key
from fl_audit.reports.schema import DefenseSummary, Finding, Summary, WorstImage

MAX_PICTURES = 96
"""Pictures embedded in one page."""

MAX_BYTES = 6 * 2**20
"""Bytes of PNG embedded in one page."""

MAX_CONTROL = 8
"""Pairs of the positive control shown in the report."""

MAX_PNG = 4 * 2**20
SMALL = 96
"""Pictures up to this many pixels wide are enlarged with square pixels."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A picture as the page embeds it."""

    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether it is enlarged."""
        return max(self.width, self.height) <= SMALL


@dataclass(frozen=True)
class Tile:
    """What one defense and attack made of an original; ``picture`` None: see the finding's reason."""

    defense: DefenseSummary
    finding: Finding
    picture: Picture | None


@dataclass(frozen=True)
class Row:
    """One original with every reconstruction of it."""

    original: Picture | None
    tiles: list[Tile]

    @property
    def subject(self) -> Finding:
        """Any of its findings: round, client and label are the same in all."""
        return self.tiles[0].finding


@dataclass
class Album:
    """Embeds pictures of one page until its budget is spent.

    Args:
        root: the run folder; nothing outside it is read.
        left: pictures that may still be embedded.
        left_bytes: bytes that may still be embedded.
    """

    root: Path
    left: int = MAX_PICTURES
    left_bytes: int = MAX_BYTES

    def read(self, path: str | None) -> bytes | None:
        """The PNG at ``path``, or None if it is missing, not a PNG, too large or outside the folder."""
        if path is None:
            return None
        file = self.root / path
        if not file.is_file() or not file.resolve().is_relative_to(self.root.resolve()):
            return None
        if file.stat().st_size > MAX_PNG:
            return None
        data = file.read_bytes()
        return data if len(data) > 24 and data.startswith(_SIGNATURE) else None

    def embed(self, path: str | None) -> Picture | None:
        """Embed one picture; None if it cannot be read."""
        data = self.read(path)
        if data is None:
            return None
        self.left -= 1
        self.left_bytes -= len(data)
        width, height = struct.unpack(">II", data[16:24])
        uri = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
        return Picture(uri, width, height)

    def affords(self, paths: Iterable[str | None]) -> bool:
        """Whether the budget is enough for all of ``paths``."""
        sizes = [len(data) for data in map(self.read, paths) if data is not None]
        return len(sizes) <= self.left and sum(sizes) <= self.left_bytes


@dataclass(frozen=True)
class Pair:
    """An image of the positive control."""

    facts: WorstImage
    original: Picture | None
    reconstruction: Picture | None


def control_pairs(album: Album, images: Iterable[WorstImage]) -> list[Pair]:
    """The first pictures of the positive control, at most `MAX_CONTROL`."""
    pairs: list[Pair] = []
    for facts in images:
        if len(pairs) == MAX_CONTROL or not album.affords([facts.original, facts.reconstruction]):
            break
        pairs.append(Pair(facts, album.embed(facts.original), album.embed(facts.reconstruction)))
    return pairs


@dataclass(frozen=True)
class Gallery:
    """The rows that fit, worst leaked first, and how many images have a reconstruction."""

    rows: list[Row]
    images: int

    @property
    def widest(self) -> int:
        """Pictures in the longest row."""
        return max((1 + len(row.tiles) for row in self.rows), default=1)


def gallery(album: Album, findings: Sequence[Finding], summary: Summary, *, every_attack: bool) -> Gallery:
    """Group by original, sort by what leaked most, embed until the album is full.

    Args:
        album: where the pictures come from.
        findings: lines with an image, of any defense; those of the control are left out.
        summary: gives defenses and metric declarations.
        every_attack: show each attack's reconstruction rather than the closest one's.
    """
    rule = by_name(summary.metrics).get(summary.recognisability.metric)
    order = {defense.name: (index, defense) for index, defense in enumerate(summary.defenses)}
    groups: dict[tuple[int, int, str], list[Finding]] = {}
    for finding in findings:
        if finding.defense in order and finding.image is not None:
            groups.setdefault(_same_original(album, finding), []).append(finding)
    shown_groups = [group for group in groups.values() if any(f.reconstruction for f in group)]
    ranked = sorted(shown_groups, key=lambda group: min(leak_key(finding, rule) for finding in group))
    rows: list[Row] = []
    for group in ranked:
        shown: dict[tuple[int, str], Finding] = {}
        for finding in sorted(group, key=lambda finding: leak_key(finding, rule)):
            key = (order[finding.defense][0], finding.attack if every_attack else "")
            shown.setdefault(key, finding)
        chosen = [shown[key] for key in sorted(shown)]
        original = next((finding.original for finding in chosen if finding.original), None)
        if not album.affords([original, *(finding.reconstruction for finding in chosen)]):
            break
        tiles = [Tile(order[f.defense][1], f, album.embed(f.reconstruction)) for f in chosen]
        rows.append(Row(album.embed(original), tiles))
    return Gallery(rows, len(ranked))


def _same_original(album: Album, finding: Finding) -> tuple[int, int, str]:
    """Equal for the same picture used by the same client in the same round under several defenses."""
    data = album.read(finding.original)
    image = f"{finding.defense} {finding.image}" if data is None else hashlib.sha256(data).hexdigest()
    return finding.round, finding.client, image
