"""The version, in the one place from which the build, the command line and the `User-Agent` take it."""

__version__ = "0.1.0"
