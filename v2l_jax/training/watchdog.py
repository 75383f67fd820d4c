"""Ends a process that hangs, and shows where: a collective whose partner is gone, a file system
that does not answer.
"""

import faulthandler


class Watchdog:
    """A context that must be fed at least every `seconds`; else each thread's stack goes to stderr
    and the process ends with 1.

    It works where Python is stuck in a call that never returns. Launchers start the job again, from
    its last checkpoint.

    Args:
      seconds: 0 never bites.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds

    def __enter__(self) -> "Watchdog":
        self.feed()
        return self

    def __exit__(self, *_: object) -> None:
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def feed(self) -> None:
        """Starts the time anew."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True)
