"""What graders know besides the images: the attacked model, the client's other originals, the prior."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from fl_audit.core.captures import list_captures, read_sent, sent_file
from fl_audit.core.errors import AuditError, CaptureError
from fl_audit.core.files import read_tensors
from fl_audit.core.seeding import seeded_globals
from fl_audit.core.types import CaptureKey
from fl_audit.metrics import Context, Metric
from fl_audit.reports.schema import DatasetFacts
from fl_audit.run.architecture import architecture
from fl_audit.run.config import RunConfig
from fl_audit.run.folder import CONTROL, RunFolder, slugs
from fl_audit.run.originals import Originals, originals
from fl_audit.run.weights import load_weights

logger = logging.getLogger(__name__)


class ContextReader:
    """Reads what the metrics want, and of that what can be read; a model or truth in common only once.

    Args:
        folder: the run folder.
        config: names the model, and the defenses that may alter it.
        dataset: shape and classes.
        units: the metrics; what none of them wants is not read.
    """

    def __init__(
        self, folder: RunFolder, config: RunConfig, dataset: DatasetFacts, units: Iterable[Metric]
    ) -> None:
        self._folder = folder
        self._model_name = config.model
        specs = config.defense_specs()
        # The control starts from the weights of the first federation.
        self._defenses = {slug: spec for spec, slug in slugs(specs).items()} | {CONTROL: specs[0]}
        self._dataset = dataset
        self._wanted = frozenset[str]().union(*(unit.wants | unit.uses for unit in units))
        self._pool = _pool(folder) if self._wanted & {"others", "prior"} else None
        self._model: tuple[Path, nn.Module | None] | None = None
        self._clients: tuple[str, dict[int, Tensor]] | None = None

    def read(self, key: CaptureKey, truth: Originals) -> Context:
        """The context of one capture's originals."""
        shape = truth.images.shape[1:]
        pool = self._pool if self._pool is not None and self._pool.shape[1:] == shape else None
        return Context(
            model=self._attacked_model(key) if "model" in self._wanted else None,
            labels=truth.labels,
            client=self._client(key, truth) if "client" in self._wanted else None,
            others=pool,
            prior=None if pool is None else prior_guess(pool).expand_as(truth.images),
        )

    def _attacked_model(self, key: CaptureKey) -> nn.Module | None:
        """The model that the client was sent; None where it cannot be built here."""
        try:
            path = sent_file(self._folder.captures, key)
            if self._model is None or self._model[0] != path:
                self._model = path, self._build(key)
            return self._model[1]
        except CaptureError as error:
            logger.warning("%s", error)
            return None

    def _build(self, key: CaptureKey) -> nn.Module | None:
        weights = read_sent(self._folder.captures, key)
        try:
            with seeded_globals(0, "architecture"):  # the weights drawn here are replaced
                spec = architecture(self._model_name, self._defenses.get(key.defense), self._folder.root)
                model = spec.build(self._dataset.shape, len(self._dataset.classes))
            load_weights(model, weights)
        except (AuditError, ImportError, RuntimeError) as error:
            # A copied run folder is graded where a user's own model need not be; the rest is measured.
            logger.warning("the attacked model %r cannot be built here: %s", self._model_name, error)
            return None
        return model.eval().requires_grad_(False)

    def _client(self, key: CaptureKey, truth: Originals) -> Tensor:
        """Every original that the client, or all in an aggregate, is known to have trained on here."""
        if self._clients is None or self._clients[0] != key.defense:
            self._clients = key.defense, {}
        known = self._clients[1]
        whose = _owner(key)
        if whose not in known:
            found = [truth.images]
            for other in list_captures(self._folder.captures, key.defense):
                if _owner(other) == whose and other != key:
                    try:
                        found.append(originals(self._folder, other).images)
                    except CaptureError:
                        continue  # that capture's findings say that its truth is missing
            known[whose] = torch.cat(
                [images for images in found if images.shape[1:] == truth.images.shape[1:]]
            )
        return known[whose]


def prior_guess(pool: Tensor) -> Tensor:
    """What an attacker who knows the data but no update would hand in: the mean, ``(1, C, H, W)``."""
    return pool.double().mean(0, keepdim=True).float().clamp(0, 1)


def _owner(key: CaptureKey) -> int:
    """Whose image it is; the control's captures hold one image each and count as one client's."""
    return -1 if key.defense == CONTROL else key.client


def _pool(folder: RunFolder) -> Tensor | None:
    try:
        return read_tensors(folder.truth / "pool.safetensors")["images"]
    except (CaptureError, KeyError) as error:
        logger.warning("no held-out images to compare with: %s", error)
        return None
