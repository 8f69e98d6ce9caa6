"""No command shows a line of a library that nobody can act on, whatever it imports."""

from __future__ import annotations

import subprocess
import sys

QUIETENED = """
import logging, sys, typer
from llmops.cli import main
def work():
    import bitsandbytes
    logging.getLogger("bitsandbytes.autograd._functions").warning("MatMul8bitLt: inputs will be cast")
    logging.getLogger("bitsandbytes.cextension").warning("something else")
main.app = typer.Typer()
main.app.command()(work)
sys.argv = ["llmops"]
main.main()
"""


def test_bitsandbytes_says_only_what_matters() -> None:
    done = subprocess.run([sys.executable, "-c", QUIETENED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "something else\n")
