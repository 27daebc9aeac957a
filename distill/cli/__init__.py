"""Commands: each file reads a command line, and starts what is in `pipeline/` or `search/`."""

import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Entry point of `distill`; Ctrl-C ends it with a line, also while it is still importing."""
    end_alike()
    try:
        from distill.cli.app import start

        start()
    except KeyboardInterrupt:
        print("interrupted: repeat the command to continue", file=sys.stderr)
        sys.exit(INTERRUPTED)


def end_alike() -> None:
    """Lets other requests to end be Ctrl-C, so that what has begun is put in order.

    One that is ignored, as `nohup` has it, stays so.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
