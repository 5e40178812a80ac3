"""Cases changed, prepared and looked at."""

from dataclasses import replace
from typing import Any

from fl_audit.attacks import Problem
from fl_audit.attacks.problem import prepare
from fl_audit.core.progress import Progress
from tests.attacks.cases import CPU, Case


def prepared(case: Case) -> Problem:
    return prepare(case.update, case.knowledge, seed=0, who="test", device=CPU, progress=Progress())


def changed(case: Case, **update: Any) -> Case:
    return replace(case, update=replace(case.update, **update))


def granting(case: Case, **knowledge: Any) -> Case:
    return replace(case, knowledge=replace(case.knowledge, **knowledge))


def noted(problem: Problem, words: str) -> bool:
    return any(words in note for note in problem.notes)
