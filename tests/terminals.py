"""Commands in a pseudo-terminal, and what a person sees there."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass

VARFLOW = [sys.executable, "-m", "varflow"]


@dataclass
class Shown:
    """What a command has written to a terminal of so many columns, its exit status, and what it left."""

    text: str
    status: int
    columns: int
    is_as_before: bool  # its modes: echo, line discipline

    @property
    def screen(self):
        """The lines that are left, the last being the one that the cursor is in."""
        return rendered(self.text, self.columns)

    @property
    def bars(self):
        """All bars that were drawn, one over another."""
        lines = self.text.replace("\r\n", "\n").split("\n")
        return [part.rstrip() for line in lines for part in line.split("\r")[1:] if " left" in part]


def rendered(text, columns):
    """Lines of a screen on which text was written; it knows no escape sequences."""
    assert "\x1b" not in text
    lines, row, column = [[]], 0, 0
    for character in text:
        if character == "\n":
            row += 1
            lines.append([])
        elif character == "\r":
            column = 0
        else:
            if column == columns:
                row, column = row + 1, 0
                lines.append([])
            lines[row] += " " * (column + 1 - len(lines[row]))
            lines[row][column] = character
            column += 1
    return ["".join(line).rstrip() for line in lines]


def run(arguments, columns=100, interrupt_at=None, **environment):
    """Run `varflow` with all of its streams in a terminal; Ctrl-C is pressed once a text has appeared."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    before = termios.tcgetattr(child)
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [*VARFLOW, *map(str, arguments)],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**inherited, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment},
        start_new_session=True,
    )
    text, is_pressed, is_interrupted = b"", False, False
    while True:
        has_ended = process.poll() is not None  # all that it wrote is there by then
        if select.select([parent], [], [], 0.05)[0]:
            text += os.read(parent, 65_536)
        elif has_ended:
            break
        if interrupt_at is not None and not is_pressed and interrupt_at in text.decode(errors="ignore"):
            os.write(parent, b"\x03")
            is_pressed = True
        if is_pressed and not is_interrupted and b"^C" in text:
            # Its echo: what was not read is dropped by then. A shell would send this to its job.
            process.send_signal(signal.SIGINT)
            is_interrupted = True
    shown = Shown(text.decode(), process.wait(), columns, termios.tcgetattr(child) == before)
    os.close(child)
    os.close(parent)
    return shown
