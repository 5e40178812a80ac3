"""Answers about pairs: made again from a seed, checked when read, and what the oracle is fitted to."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from fl_audit.core.errors import ConfigError, MissingDataError, MissingWeightsError
from fl_audit.core.seeding import torch_generator
from fl_audit.semsim import oracle
from fl_audit.semsim.evidence import NAMES, evidence
from fl_audit.semsim.judgements import Judgements, Round, make_pairs, read
from fl_audit.semsim.material import PHOTOGRAPHS, picture_sets
from fl_audit.semsim.pairs import answered
from fl_audit.semsim.pictures import Pictures
from tests.bench._data import data_file


def sets() -> list[Pictures]:
    coarse = torch.rand(2, 40, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    large = [torch.nn.functional.interpolate(part, (32, 32), mode="bicubic").clamp(0, 1) for part in coarse]
    return [Pictures(str(n), (part * 255).byte(), torch.arange(40) % 4) for n, part in enumerate(large)]


def spoken(**changes: Any) -> dict[str, Any]:
    return {"seed": 5, "batches": 1, "pairs": [0, 70, 127], "answers": ["0", "34", "1"], **changes}


def test_pairs_are_made_again_with_their_answers() -> None:
    one, two = (Judgements.make(sets(), [Round(**spoken())]) for _ in range(2))
    assert torch.equal(one.reconstructions, two.reconstructions)
    assert one.answers.tolist() == [0, 3.5, 1]
    assert one.evidence.shape == (3, len(NAMES))
    assert one.picture_set.tolist() == [0, 0, 1]
    originals, reconstructions, numbers = make_pairs(sets(), everything())
    rows = torch.tensor([0, 70, 127])
    assert torch.equal(reconstructions[rows], one.reconstructions)
    torch.testing.assert_close(numbers[rows], one.evidence, rtol=1e-4, atol=1e-5)
    backwards = make_pairs(sets(), Round(**spoken(pairs=[127, 0, 70])))[1]
    assert torch.equal(backwards, reconstructions[torch.tensor([127, 0, 70])])
    told = Judgements.make(sets(), [everything()]).picture_set
    for number, pictures in enumerate(sets()):
        # Few are shown as they are, and those are of the set that is told.
        own = {image.numpy().tobytes() for image in pictures.images}
        shown = [image.numpy().tobytes() in own for image in originals]
        assert sum(shown) > 0
        assert set(told[torch.tensor(shown)].tolist()) == {number}
    # The second half of a batch shows the same originals again, otherwise spoiled.
    assert torch.equal(originals[:64], originals[64:])
    assert not torch.equal(reconstructions[:64], reconstructions[64:])


def test_other_pictures_than_those_that_were_judged_are_refused() -> None:
    mean = float(make_pairs(sets(), Round(**spoken()))[0].float().mean())
    make_pairs(sets(), Round(**spoken(mean_pixel=mean)))
    with pytest.raises(ConfigError, match="not the pictures that were judged"):
        make_pairs(sets()[::-1], Round(**spoken(mean_pixel=mean)))


def test_no_original_is_in_both_parts() -> None:
    seen, unseen = Judgements.make(sets(), [everything()]).split(0.25)
    assert len(seen.answers) + len(unseen.answers) == 128
    assert 20 < len(unseen.answers) < 44
    own = {image.numpy().tobytes() for image in seen.originals}
    assert own.isdisjoint(image.numpy().tobytes() for image in unseen.originals)


def test_what_is_held_out_stays_so_when_rounds_are_added() -> None:
    before, more = everything(), Round(**spoken(seed=6, added=2))
    _, unseen = Judgements.make(sets(), [before]).split(0.25)
    seen, grown = Judgements.make(sets(), [before, more]).split(0.25)
    assert torch.equal(grown.part(grown.added == 1).originals, unseen.originals)
    assert len(grown.answers) == len(unseen.answers) + 1
    # Some of the originals once more, of which others would be held out: none is in both parts.
    again = Round(**spoken(pairs=list(range(50)), answers=["2"] * 50, added=2))
    seen, fewer = Judgements.make(sets(), [before, again]).split(0.25)
    assert 0 < len(fewer.answers) < len(unseen.answers)
    own = {image.numpy().tobytes() for image in seen.originals}
    assert own.isdisjoint(image.numpy().tobytes() for image in fewer.originals)


def everything() -> Round:
    return Round(**spoken(pairs=list(range(128)), answers=["2"] * 128))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answers": ["0", "5", "1"]}, r"rounds\.0\.answers\.1"),
        ({"answers": ["0", "1"]}, "3 pairs with 2 answers"),
        ({"pairs": [0, 0, 1]}, "a pair is there twice"),
        ({"pairs": [0, 1, 128]}, "not in 0 to 127, as 1 batches hold"),
        ({"batches": 10**9}, r"rounds\.0\.batches"),
    ],
)
def test_answers_that_do_not_fit_are_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"rounds": [spoken(**changes)]}))
    with pytest.raises(ConfigError, match=reason):
        read(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="JSON"):
        read(path)
    with pytest.raises(MissingDataError, match="no such file"):
        read(tmp_path / "none.json")


def test_judged_pairs_take_part_in_training() -> None:
    seen = Judgements.make(sets(), [Round(**spoken())])
    batch = next(answered(seen, torch_generator(0, "x"), size=40))
    assert batch.reconstructions.shape == (40, 1, 3, 32, 32)
    assert set(batch.grades.flatten().tolist()) == {answer / 4 for answer in seen.answers.tolist()}

    def looks(images: Tensor) -> set[tuple[float, ...]]:
        """Both images of each pair, in each of the ways that training may show them."""
        return {tuple(pair.flatten().tolist()) for pair in images}

    pairs = torch.stack([seen.originals, seen.reconstructions], 1).float() / 255
    ways = [pairs, pairs.flip(4)]  # not in other colours: nobody judged them so
    shown = torch.stack([batch.originals, batch.reconstructions[:, 0]], 1)
    assert looks(shown) <= set().union(*(looks(way) for way in ways)), "original and reconstruction alike"
    assert not looks(shown) <= looks(pairs)


def test_the_oracle_learns_from_answers() -> None:
    numbers = torch.randn(600, len(NAMES), generator=torch.Generator().manual_seed(0))
    answers = (1.5 * numbers[:, 3] + 2).round().clamp(0, 4)
    one, two = (oracle.Oracle.fit(numbers[:500], answers[:500], seed=1, steps=300) for _ in range(2))
    found = one.grade(numbers[500:])
    assert torch.equal(found, two.grade(numbers[500:]))
    assert spearmanr(found, answers[500:]).statistic > 0.85
    assert float((4 * found - answers[500:]).abs().mean()) < 0.5


def test_a_file_that_is_no_oracle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "oracle.safetensors"
    with pytest.raises(MissingWeightsError, match="is not an oracle"):
        oracle.load(path)
    path.write_bytes(oracle.PATH.read_bytes()[:-10])
    with pytest.raises(MissingWeightsError, match="is not an oracle"):
        oracle.load(path)


def test_evidence_is_of_each_pair_alone() -> None:
    pool = [part.float() / 255 for part in make_pairs(sets(), everything())[:2]]
    whole = torch.ones(128)

    def numbers(rows: slice) -> Tensor:
        return evidence(pool[0][rows], pool[0][rows], pool[1][rows], whole[rows], whole[rows])

    torch.testing.assert_close(numbers(slice(128))[5:9], numbers(slice(5, 9)), rtol=1e-4, atol=1e-5)
    own = evidence(pool[0], pool[0], pool[0], whole, whole)
    for name in ("ssim", "correlation_2", "correlation_8", "edges", "half_edge_places", "parts_50"):
        assert own[:, NAMES.index(name)].min() > 0.98, name
    assert own[:, NAMES.index("away")].max() == 0
    flat = torch.full((4, 3, 32, 32), 0.5)
    assert evidence(flat, flat, flat, whole[:4], whole[:4]).isfinite().all()


def test_the_packaged_oracle_follows_its_answers() -> None:
    files = [data_file(f"{name}.zip") for name in ("cifar10-jpeg", "caltech101-64", "judged-pairs")]
    if files[0] is None or None in files:
        pytest.skip("FL_AUDIT_TEST_DATA does not name a folder with all data of the training")
    training, _ = picture_sets(files[0].parent)
    judged = Judgements.make(training[:PHOTOGRAPHS], read()[:1])
    assert len(judged.answers) == 666
    found = oracle.packaged().grade(judged.evidence)
    assert spearmanr(found, judged.answers).statistic > 0.8
    assert float(oracle.ANSWERS * found.mean()) == pytest.approx(float(judged.answers.mean()), abs=0.3)
