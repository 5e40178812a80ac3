"""What is told of an error of the app: its own lines and no others."""

from pathlib import Path

import pytest

from fl_audit.federation.apps.job import Seen
from fl_audit.federation.apps.outcome import own_traceback, together
from fl_audit.models.app_model import Recipe


def test_an_error_without_a_line_of_the_app_is_told_without_ours(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        __import__("no_such_app_of_anybody")
    assert own_traceback(caught.value, tmp_path) == (
        "ModuleNotFoundError: No module named 'no_such_app_of_anybody'"
    )


def test_lines_of_the_app_are_told_by_their_place_in_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "task.py"
    file.write_text("def fail():\n    raise ValueError('broken data')\n")
    space: dict[str, object] = {}
    exec(compile(file.read_text(), str(file), "exec"), space)
    fail = space["fail"]
    assert callable(fail)
    with pytest.raises(ValueError, match="broken data") as caught:
        fail()
    text = own_traceback(caught.value, tmp_path)
    assert text.startswith('  File "task.py", line 2, in fail')
    assert text.endswith("ValueError: broken data")


def test_what_clients_do_differently_is_kept_and_said() -> None:
    def seen(loss: str | None, mean: float) -> Seen:
        return Seen(loss=loss, recipe=Recipe(target="app:Net", mean=[mean], std=[0.5]))

    alike = together([seen("cross-entropy", 0.5), seen("cross-entropy", 0.500001), seen(None, 0.5)])
    assert alike.differing == []
    weighted = "cross-entropy(weight=[1, 2])"
    apart = together([seen("cross-entropy", 0.5), seen(weighted, 0.4)])
    assert apart.other_losses == [weighted]
    assert len(apart.differing) == 2
    assert f"some clients train on {weighted}, and all are attacked as if on cross-entropy" in apart.differing
    again = together([apart, seen("cross-entropy", 0.5)])
    assert (again.other_losses, again.other_norms) == ([weighted], True)
