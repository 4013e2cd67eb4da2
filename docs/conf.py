"""How the documentation is built: `sphinx-build -nW docs docs/_build`."""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

from signalwire_tokens import __version__

project = "signalwire-tokens"
copyright = "2026, the signalwire-tokens authors"  # noqa: A001 - Sphinx's own name
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"signalwire-tokens {release}"
html_extra_path = ["reference/openapi.yaml"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
default_role = "code"  # docstrings have code in single backticks
nitpick_ignore_regex = [
    # Types of other projects, and private ones of ours, in signatures: shown, but with nothing of ours to link to.
    (
        "py:.*",
        r"(aiohttp|attrs|attr|asyncio|collections|contextlib|cryptography|datetime|opentelemetry|os|pathlib|ssl|typing)\b.*",
    ),
    (
        "py:.*",
        r"(Redis|RedisCluster|asyncpg|uuid|web|wire|signalwire_tokens\.(wire|integrations\.(asgi|token_endpoint)|keeper\.renewal))\b.*",
    ),
    (
        "py:.*",
        r"(UUID|datetime|timedelta|Path|Iterable|Mapping|AsyncIterator|Callable|Self|Literal|Any|T|ApiToken|When|tls\..*|Request|Duration)",
    ),
    (
        "py:.*",
        r"(APIRouter|AbstractAsyncContextManager|Callback|ClientRequest|ClientResponse|FleetOpener|Handler|Headers|Outcome|Response|Route|Session|Throttle|TokenSource)",
    ),
    ("py:.*", r"(Exception|ValueError|ConnectionError|TimeoutError|Enum|Protocol|object|enum\.Enum)"),
]


def copy_pictures(app: Sphinx, error: Exception | None) -> None:
    """Copy the pictures, which pages show with HTML of their own so that hosts of repositories show them, too."""
    if error is None:
        names = shutil.ignore_patterns("*.py", "__pycache__")
        shutil.copytree(Path(app.srcdir, "pictures"), Path(app.outdir, "pictures"), ignore=names, dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    """Copy the pictures when the site has been built."""
    app.connect("build-finished", copy_pictures)
