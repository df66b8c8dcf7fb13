"""Progress bars: lively in a terminal, a line now and then in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """tqdm's bar with its options; where stderr is no terminal it writes every ten seconds at most."""
    return tqdm(items, mininterval=0.1 if sys.stderr.isatty() else 10.0, dynamic_ncols=True, **options)
