"""Token sequences into rows of one length, with nothing thrown away."""

from collections.abc import Iterator

import numpy as np

from jaxgpt.data.dialogue import EncodedConversation
from jaxgpt.data.records import PageFormat

Rows = dict[str, np.ndarray]

_OPEN_ROWS = 64


class StreamPacker:
    """Documents into consecutive rows of one stream: end-of-text, document, end-of-text, document, end-of-text.

    Every token of a document, and the end-of-text after it, is thereby predicted once, from what stands before it.
    """

    def __init__(self, page_format: PageFormat, eos_token_id: int):
        self._format, self._eos = page_format, eos_token_id
        self._pending = [np.array([eos_token_id], np.int64)]
        self._n_pending = 1
        self.tokens = 1

    def add(self, ids: list[int]) -> Iterator[Rows]:
        self._pending.append(np.array([*ids, self._eos], np.int64))
        self._n_pending += len(ids) + 1
        self.tokens += len(ids) + 1
        if self._n_pending >= self._format.row_length:
            stream = np.concatenate(self._pending)
            whole = len(stream) // self._format.row_length * self._format.row_length
            self._pending, self._n_pending = [stream[whole:]], len(stream) - whole
            yield {"tokens": stream[:whole].reshape(-1, self._format.row_length)}

    def flush(self) -> Iterator[Rows]:
        """The last row, filled up with end-of-text; `tokens` counts none of the filling."""
        if self._n_pending and self.tokens > 1:
            row = np.full(self._format.row_length, self._eos, np.int64)
            row[: self._n_pending] = np.concatenate(self._pending)
            yield {"tokens": row[None]}


class DialoguePacker:
    """Conversations into rows, several to a row, each whole: best fit among a bounded number of open rows."""

    def __init__(self, page_format: PageFormat):
        self._format = page_format
        self._open: list[tuple[int, list[EncodedConversation]]] = []  # (free tokens, conversations)
        self.tokens = 0

    def add(self, encoded: EncodedConversation) -> Iterator[Rows]:
        """encoded: of at most row_length tokens."""
        need = len(encoded.ids)
        self.tokens += need
        fitting = [index for index, (free, _) in enumerate(self._open) if free >= need]
        if fitting:
            index = min(fitting, key=lambda index: self._open[index][0])
            free, row = self._open[index]
            self._open[index] = (free - need, [*row, encoded])
        else:
            if len(self._open) == _OPEN_ROWS:
                fullest = min(range(_OPEN_ROWS), key=lambda index: self._open[index][0])
                yield self._row(self._open.pop(fullest)[1])
            self._open.append((self._format.row_length - need, [encoded]))

    def flush(self) -> Iterator[Rows]:
        for _, row in self._open:
            yield self._row(row)
        self._open = []

    def _row(self, conversations: list[EncodedConversation]) -> Rows:
        row = {name: np.zeros((1, self._format.row_length), dtype) for name, dtype in self._format.columns.items()}
        at = 0
        for segment, encoded in enumerate(conversations, start=1):
            here = slice(at, at + len(encoded.ids))
            row["tokens"][0, here] = encoded.ids
            row["weights"][0, here] = encoded.weights
            row["roles"][0, here] = encoded.roles
            row["segments"][0, here] = segment
            at = here.stop
        return row
