"""Fill in the templates of the pages: no text becomes markup, and no picture is fetched."""

import hashlib
from base64 import b64encode
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ctmr.errors import printable


def render(template: str, values: Mapping[str, object]) -> Markup:
    """Fill in a file of `templates/`.

    Raises:
        UndefinedError: If the template shows a value that is not there.
    """
    environment = Environment(
        loader=PackageLoader("ctmr.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda shown: shown if isinstance(shown, Markup) else printable(str(shown)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["sha256"] = lambda text: hashlib.sha256(text.encode()).digest()
    environment.filters["base64"] = lambda content: Markup(b64encode(content).decode())
    return Markup(environment.get_template(template).render(values))
