"""The command line: text in, one library call, text out. The only package that prints."""

from ctmr.cli.app import main

__all__ = ["main"]
