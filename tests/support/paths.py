"""Where the checkout's files are, and those of the package, which may be installed from a wheel."""

from pathlib import Path

import signalwire_tokens

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
PACKAGE = Path(signalwire_tokens.__file__).parent
