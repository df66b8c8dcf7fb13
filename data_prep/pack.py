"""Token sequences into rows of one length, with nothing thrown away."""

from bisect import bisect_left, insort
from collections.abc import Iterator

import numpy as np

from jaxgpt.data.records import PageFormat

Rows = dict[str, np.ndarray]

_OPEN_ROWS = 64


class StreamPacker:
    """Documents into consecutive rows of one stream: end-of-text, document, end-of-text, document, end-of-text.

    Every token of a document, and the end-of-text after it, is thereby predicted once, from what stands before it.
    """

    def __init__(self, page_format: PageFormat, eos_token_id: int):
        self._format, self._eos = page_format, eos_token_id
        self._rest = np.array([eos_token_id], np.int64)
        self.tokens = 1

    def add(self, columns: Rows, lengths: np.ndarray) -> Iterator[Rows]:
        """columns: tokens (n,), documents with their end-of-text, one after the other."""
        stream = np.concatenate([self._rest, columns["tokens"]])
        self.tokens += len(columns["tokens"])
        whole = len(stream) // self._format.row_length * self._format.row_length
        self._rest = stream[whole:]
        if whole:
            yield {"tokens": stream[:whole].reshape(-1, self._format.row_length)}

    def flush(self) -> Iterator[Rows]:
        """The last row, filled up with end-of-text; `tokens` counts none of the filling."""
        if len(self._rest) and self.tokens > 1:
            row = np.full(self._format.row_length, self._eos, np.int64)
            row[: len(self._rest)] = self._rest
            yield {"tokens": row[None]}


class DialoguePacker:
    """Pieces of conversations into rows, several to a row, each whole: best fit among a bounded number of open rows."""

    def __init__(self, page_format: PageFormat):
        self._format = page_format
        self._open: list[tuple[int, int]] = []  # (free tokens, number) of the open rows, ascending
        self._rows: dict[int, list[tuple[Rows, slice]]] = {}  # what is in them: columns, and the piece's place there
        self._n_rows = 0
        self.tokens = 0

    def add(self, columns: Rows, lengths: np.ndarray) -> Iterator[Rows]:
        """columns: tokens, weights and roles (n,) of pieces of `lengths` tokens, at most row_length each."""
        at, closed = 0, list[list[tuple[Rows, slice]]]()
        for need in lengths.tolist():
            fitting = bisect_left(self._open, (need, 0))
            if fitting < len(self._open):
                free, number = self._open.pop(fitting)
            else:
                if len(self._open) == _OPEN_ROWS:
                    closed.append(self._rows.pop(self._open.pop(0)[1]))
                free, number = self._format.row_length, self._n_rows
                self._rows[number] = []
                self._n_rows += 1
            insort(self._open, (free - need, number))
            self._rows[number].append((columns, slice(at, at + need)))
            at += need
        self.tokens += at
        if closed:
            yield self._filled(closed)

    def flush(self) -> Iterator[Rows]:
        if self._rows:
            yield self._filled(list(self._rows.values()))
        self._open, self._rows = [], {}

    def _filled(self, rows: list[list[tuple[Rows, slice]]]) -> Rows:
        shape = (len(rows), self._format.row_length)
        filled = {name: np.zeros(shape, dtype) for name, dtype in self._format.columns.items()}
        for number, pieces in enumerate(rows):
            lengths = [here.stop - here.start for _, here in pieces]
            used = sum(lengths)
            for name in ("tokens", "weights", "roles"):
                filled[name][number, :used] = np.concatenate([columns[name][here] for columns, here in pieces])
            filled["segments"][number, :used] = np.repeat(np.arange(1, len(pieces) + 1), lengths)
        return filled
