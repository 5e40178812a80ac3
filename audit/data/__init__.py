"""Data sets, and how they are split among clients.

A data set is named by a spec: ``faces``, ``cifar10:download=true``, the path of an image folder or of a
zip (``PATH``, ``PATH.zip:inner/folder``, with parameters ``PATH,image_size=32,per_class=200``), or
``module:function``.
"""

from fl_audit.core.discover import import_modules
from fl_audit.data._registry import datasets, partitioners
from fl_audit.data.splits import Splits, client_splits

import_modules(__name__, __path__)

__all__ = ["Splits", "client_splits", "datasets", "partitioners"]
