"""Do metrics follow what people recognise? Two folders of images, labels, and the figures that tell."""

from fl_audit.faithfulness.answers import against_answers
from fl_audit.faithfulness.compare import Column, agreement, faithfulness
from fl_audit.faithfulness.folders import PairFiles, Pairs, find_pairs, read_pair
from fl_audit.faithfulness.labels import Labels, read_labels
from fl_audit.faithfulness.page import render_study
from fl_audit.faithfulness.ranking import ranking
from fl_audit.faithfulness.result import MetricsFile
from fl_audit.faithfulness.study import Study, study

__all__ = [
    "Column",
    "Labels",
    "MetricsFile",
    "PairFiles",
    "Pairs",
    "Study",
    "against_answers",
    "agreement",
    "faithfulness",
    "find_pairs",
    "ranking",
    "read_labels",
    "read_pair",
    "render_study",
    "study",
]
