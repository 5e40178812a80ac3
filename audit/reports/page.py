"""How every page is made: one style, one Jinja environment, one content security policy.

Jinja escapes every value; the page's policy allows no script, no load of any kind but ``data:`` pictures,
and only the one style sheet whose hash it names.
"""

import base64
import hashlib
import re
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from fl_audit.reports import words
from fl_audit.reports.frontier_chart import key_of
from fl_audit.reports.frontier_words import bare
from fl_audit.reports.plots import rate_bar, swatch

PACKAGE = "fl_audit.reports"
TEMPLATES = "templates"


def page_name(client: int) -> str:
    """File name of a client's page."""
    return f"client-{client:02d}.html"


def render_page(name: str, *, package: str = PACKAGE, **context: Any) -> str:
    """Render one page.

    Args:
        name: the template.
        package: where the template lies, if not among those of the reports; it may extend theirs.
        context: what the template reads.
    """
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    template = _environment(package).get_template(name)
    return template.render(style=Markup(style), style_hash=digest, **context)


@lru_cache(maxsize=4)
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, TEMPLATES) for name in {package: None, PACKAGE: None}]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {
            "aggregate": words.aggregate,
            "percent": words.percent,
            "interval": words.interval,
            "number": words.number,
            "epsilon": words.epsilon,
            "spans": words.spans,
            "params": words.params,
            "failed": words.failed,
            "title_of": words.title,
            "listing": words.listing,
            "mix": words.mix,
            "bare": bare,
            "breakable": _breakable,
            "upfirst": words.upfirst,
            "page_name": page_name,
        }
    )
    environment.globals.update(count=words.count, key_of=key_of, rate_bar=rate_bar, swatch=swatch)
    return environment


def _breakable(text: str) -> Markup:
    """The text, escaped, with places where a narrow column may break a long name."""
    parts = re.split(r"(?<=[:=,_-])", text)
    return Markup("<wbr>").join(escape(part) for part in parts)


def _style() -> str:
    return files(PACKAGE).joinpath(TEMPLATES, "style.css").read_text(encoding="utf-8")
