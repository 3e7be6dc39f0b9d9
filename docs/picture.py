"""Draws docs/terminal.svg: the first commands, really run, as a terminal shows them. `python docs/picture.py`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
COMMANDS = (
    'lavatube predict examples/shapes.png "How many circles are there?"',
    'lavatube predict examples/shapes.png "Describe the picture."',
    'lavatube predict examples/digit.png "Which digit is this?"',
    'lavatube predict examples/letter.png "What letter do you see?"',
)


def main() -> None:
    console = Console(record=True, width=100, file=io.StringIO())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in COMMANDS:
        console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
        environ = {**os.environ, "PATH": path}
        answer = subprocess.check_output(["bash", "-c", command], cwd=ROOT, env=environ, text=True)
        console.print(Text(answer.strip()))
    console.save_svg(str(ROOT / "docs" / "terminal.svg"), title="lavatube")


if __name__ == "__main__":
    main()
