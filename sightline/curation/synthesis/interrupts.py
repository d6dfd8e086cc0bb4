"""An interrupt that lets what has been paid for arrive."""

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def first_interrupt(stop: Callable[[], None]) -> Generator[None]:
    """Within, the first SIGINT or SIGTERM calls `stop` in the running event loop; a second one acts as before.

    Without effect outside the main thread, which alone may handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            if loop.remove_signal_handler(number):
                signal.signal(number, handler)

    def interrupt() -> None:
        restore()
        stop()

    for number in before:
        loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        restore()
