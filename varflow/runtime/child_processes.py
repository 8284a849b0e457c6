"""How child processes end."""

import signal

__all__ = ["describe_end"]


def describe_end(code: int) -> str:
    """Say how a process ended, from its exit status, or the number of a signal with a minus sign."""
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
