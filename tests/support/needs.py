"""What to install if a test can't run."""

NEEDS_ALL = "it needs the dependency group `all`: pip install --upgrade pip && pip install --group all"
