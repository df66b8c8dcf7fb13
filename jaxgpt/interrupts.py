"""Ctrl-C where Python alone would lose it, or turn it into an error or a crash of somebody else's."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from jaxgpt.command import INTERRUPTED, INTERRUPTED_CODE

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_AGAIN_AFTER_S = 0.02


@contextmanager
def reliable_interrupts() -> Iterator[None]:
    """Within the block Ctrl-C is a KeyboardInterrupt, as ever, that reaches those who wait for it.

    While a module is imported the process leaves at once instead: compiled modules that are interrupted half way make
    ImportErrors of it, or crash.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            os.write(2, f"{INTERRUPTED}\n".encode())
            os._exit(INTERRUPTED_CODE)
        raise KeyboardInterrupt

    def unraisable(what: "UnraisableHookArgs") -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):  # in a callback that may not fail: of the collector, say
            threading.Timer(_AGAIN_AFTER_S, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
        else:
            hook(what)

    handler, hook = signal.signal(signal.SIGINT, handle), sys.unraisablehook
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = hook


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
