"""Commands: each file reads a command line, and starts what is in `pipeline/` or `search/`."""

from distill.cli.app import main

__all__ = ["main"]
