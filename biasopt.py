"""Start the command line, whatever ``cli.py`` or ``converter/`` the user has on PYTHONPATH.

PYTHONPATH comes before the installed packages on ``sys.path``, so a script that imported ``cli``
directly would run the user's. The folder that this file lies in goes first instead.
"""

import gc
import os
import signal
import sys

# ruff: noqa: PTH100, PTH120  (pathlib would cost a tenth of the start-up of --help)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def _fill_standard_streams() -> None:
    """Open what is closed of the numbers 0 to 2: a file that got one would take the remarks of native libraries."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        _run()
    except KeyboardInterrupt:  # while the command line itself was being loaded; what comes later, `cli.run` hears
        sys.stderr.write("biasopt: interrupted\n")
        sys.exit(130)


def _run() -> None:
    # What is loaded lives to the end: looking for garbage every 700 objects is a tenth of the time.
    gc.set_threshold(100_000, 20, 20)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime's, whoever imports it; it keeps a list of events
    _fill_standard_streams()
    from cli import main as run

    try:
        run()
    finally:
        # All is said and written: a Ctrl-C from here on would only tell of a failure that is none.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        gc.freeze()  # the interpreter looks for garbage twice more on its way out; the system takes it all anyway


if __name__ == "__main__":
    main()
