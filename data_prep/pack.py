"""Token sequences into rows of one length, with nothing thrown away."""

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
        # An open row has free tokens; one that is not in use looks full.
        self._free = np.zeros(_OPEN_ROWS, np.int64)
        self._open: list[list[Rows]] = [[] for _ in range(_OPEN_ROWS)]
        self.tokens = 0

    def add(self, columns: Rows, lengths: np.ndarray) -> Iterator[Rows]:
        """columns: tokens, weights and roles (n,) of pieces of `lengths` tokens, at most row_length each."""
        at = 0
        closed: list[list[Rows]] = []
        for need in lengths.tolist():
            piece = {name: column[at : at + need] for name, column in columns.items()}
            at += need
            left = self._free - need
            left[left < 0] = self._format.row_length
            index = int(left.argmin())
            if left[index] == self._format.row_length:
                index = int(self._free.argmin())
                if self._open[index]:
                    closed.append(self._open[index])
                self._open[index], self._free[index] = [], self._format.row_length
            self._open[index].append(piece)
            self._free[index] -= need
        self.tokens += at
        if closed:
            yield self._rows(closed)

    def flush(self) -> Iterator[Rows]:
        if rows := [row for row in self._open if row]:
            yield self._rows(rows)
        self._free[:] = 0
        self._open = [[] for _ in range(_OPEN_ROWS)]

    def _rows(self, rows: list[list[Rows]]) -> Rows:
        shape = (len(rows), self._format.row_length)
        filled = {name: np.zeros(shape, dtype) for name, dtype in self._format.columns.items()}
        for number, pieces in enumerate(rows):
            lengths = [len(piece["tokens"]) for piece in pieces]
            used = sum(lengths)
            for name in ("tokens", "weights", "roles"):
                filled[name][number, :used] = np.concatenate([piece[name] for piece in pieces])
            filled["segments"][number, :used] = np.repeat(np.arange(1, len(pieces) + 1), lengths)
        return filled
