"""What ran an app, in words: and what that engine cannot give."""

from fl_audit.core.progress import Progress
from fl_audit.run.adopt import write_pictures
from fl_audit.run.app_settings import AppSettings, read_settings
from fl_audit.run.folder import RunFolder

_NOT_ALIKE = (
    "Two such runs agree to the rounding of sums, not to the bit. A client's time runs from the sending of "
    "its message, waiting for a free process included, and a client that is late keeps its process."
)

_SERVER_ONLY = (
    "Only the server's side was fl-audit's: the clients ran the app's own code, unwatched. Ground truth "
    "must then come from the operator (--truth module:function, client being the rank of a node's id)"
)


def engine_words(settings: AppSettings) -> str:
    """One or more sentences, for the report; the first one continues a sentence."""
    words = {
        "local": "engine local.",
        "ray": "engine ray: Flower's simulation on Ray.",
        "flwr": f"engine flwr: run by flwr run on {_superlink(settings)}.",
    }[settings.engine]
    if settings.engine != "local":
        words = f"{words} {_NOT_ALIKE}"
    if settings.server_only:
        rest = "." if settings.truth else "; there is none, so that no image is graded."
        words = f"{words} {_SERVER_ONLY}{rest}"
    return words


def show_ungraded(folder: RunFolder, progress: Progress) -> None:
    """Where nobody gave a ground truth, write the reconstructions as pictures for people to judge."""
    settings = read_settings(folder)
    if settings.server_only and settings.truth is None:
        count = write_pictures(folder)
        progress.note(
            f"{count} reconstructions, not graded for want of ground truth (--truth module:function), in "
            f"{folder.reconstructions}/*/*/*/*_rec.png"
        )


def _superlink(settings: AppSettings) -> str:
    if settings.superlink is not None:
        return f"the SuperLink {settings.superlink}"
    if settings.deployment:
        return "a SuperLink and SuperNodes on loopback, each a process of its own"
    return "a SuperLink that simulates its SuperNodes"
