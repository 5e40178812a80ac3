"""The originals of one capture, out of the sealed truth: one client's, or those of all in an aggregate.

For the grader, and for granting what the threat model grants.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_audit.core.captures import NO_IMAGES, NoImages, read_cohort, read_truth
from fl_audit.core.errors import CaptureError
from fl_audit.core.types import EVERYONE, CaptureKey, GroundTruth, TrainingDetails
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import RunFolder


@dataclass(frozen=True)
class Originals:
    """Each different image that there was to leak, once.

    Attributes:
        images: float32 ``(N, C, H, W)`` in [0, 1], those of one client after the other.
        labels: int64 ``(N,)``.
        clients: whose each is, N of them.
        places: position of each among its client's, N of them.
        trainings: by client, how it trained.
        missing: by client, why its images are not known.
    """

    images: Tensor
    labels: Tensor
    clients: tuple[int, ...]
    places: tuple[int, ...]
    trainings: Mapping[int, TrainingDetails]
    missing: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.clients)


def looked_at(folder: RunFolder, key: CaptureKey, config: RunConfig) -> list[int]:
    """Whose images a capture is graded by: its client's; of an aggregate, ``attack.clients`` lowest ids."""
    if key.client != EVERYONE:
        return [key.client]
    try:
        clients = sorted(part.client for part in read_cohort(folder.captures, key))
    except CaptureError:  # the capture is damaged: anyone may have taken part
        clients = list(range(config.federation.clients))
    return clients[: config.attack.clients]


def aggregate_of(folder: RunFolder, key: CaptureKey) -> int | None:
    """Of how many clients a capture is the mean; None where it is one's, or damaged."""
    if key.client != EVERYONE:
        return None
    try:
        return len(read_cohort(folder.captures, key))
    except CaptureError:
        return None


def truths_of(folder: RunFolder, key: CaptureKey) -> tuple[dict[int, GroundTruth], dict[int, str]]:
    """The truth of each client of a capture, and of the others why there is none.

    A client that is known to have used no image is in neither.

    Raises:
        CaptureError: the capture of a whole round is missing or damaged: who took part is unknown.
    """
    clients = [key.client]
    if key.client == EVERYONE:
        clients = [part.client for part in read_cohort(folder.captures, key)]
    found, missing = dict[int, GroundTruth](), dict[int, str]()
    for client in clients:
        try:
            found[client] = read_truth(folder.truth, CaptureKey(key.defense, key.round, client))
        except NoImages:
            continue
        except CaptureError as error:
            missing[client] = str(error)
    return found, missing


def originals(folder: RunFolder, key: CaptureKey) -> Originals:
    """The originals of one capture.

    Raises:
        NoImages: it is known that no image was used.
        CaptureError: there are none.
    """
    truths, missing = truths_of(folder, key)
    if not truths:
        raise CaptureError("; ".join(dict.fromkeys(missing.values()))) if missing else NoImages(NO_IMAGES)
    different = {client: truth.unique() for client, truth in truths.items()}
    shape = next(iter(different.values())).images.shape[1:]
    for client, truth in list(different.items()):
        if truth.images.shape[1:] != shape:
            del different[client]
            missing[client] = f"its images are {tuple(truth.images.shape[1:])}, the others' {tuple(shape)}"
    return Originals(
        images=torch.cat([truth.images for truth in different.values()]),
        labels=torch.cat([truth.labels for truth in different.values()]),
        clients=tuple(client for client, truth in different.items() for _ in truth.labels),
        places=tuple(place for truth in different.values() for place in range(len(truth.labels))),
        trainings={client: truth.training for client, truth in different.items()},
        missing=missing,
    )
