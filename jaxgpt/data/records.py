"""The page format: TFRecord files whose records all have one length, so that a file is also a numpy array.

A record of a TFRecord file is a little-endian u64 length, the masked CRC-32C of those eight bytes, the data, and the
masked CRC-32C of the data. Here the data is a serialized `tf.train.Example` whose features are byte strings of fixed
length, so every byte that is not content stands at the same place in every record. TensorFlow, TFDS and grain read
these files as what they are; this module reads and writes them through one numpy structured dtype.

This is the only module that knows bytes. It needs numpy and google-crc32c, no TensorFlow.
Source: TensorFlow's `record_writer.h` (framing, CRC mask); `example.proto` and the protobuf encoding guide.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np

from jaxgpt.errors import UserError

Kind = Literal["stream", "dialogue"]

_CRC_MASK_DELTA = 0xA282EAD8
_LENGTH_DELIMITED = 2  # protobuf wire type of strings, bytes and messages
_BYTES_PER_WRITE = 1 << 21


def masked_crcs(rows: np.ndarray) -> np.ndarray:
    """TFRecord's CRC of each row of bytes: rows uint8 (n, bytes) -> uint32 (n,).

    It is CRC-32C rotated right by 15 bits plus a constant, so that a CRC of data that holds CRCs stays sound.
    """
    crcs = np.fromiter(map(google_crc32c.value, rows), np.uint32, len(rows))
    return (crcs >> np.uint32(15) | crcs << np.uint32(17)) + np.uint32(_CRC_MASK_DELTA)


def crc32c_of_file(path: Path) -> str:
    """CRC-32C of a whole file, hex."""
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(_BYTES_PER_WRITE):
            crc = google_crc32c.extend(crc, piece)
    return f"{crc:08x}"


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _header(field: int, length: int) -> bytes:
    return bytes([field << 3 | _LENGTH_DELIMITED]) + _varint(length)


def _feature_header(name: str, n_bytes: int) -> bytes:
    """All bytes of one `map<string, Feature>` entry of `Features` that come before the feature's own bytes."""
    value = _header(1, n_bytes)  # BytesList.value
    bytes_list = _header(1, len(value) + n_bytes) + value  # Feature.bytes_list
    feature = _header(2, len(bytes_list) + n_bytes) + bytes_list  # entry.value
    entry = _header(1, len(name)) + name.encode() + feature  # entry.key
    return _header(1, len(entry) + n_bytes) + entry  # Features.feature


@dataclass(frozen=True)
class PageFormat:
    """What one record holds: `row_length` tokens, and for dialogue their weights, segments and roles.

    stream:   tokens only. Rows are consecutive pieces of one token stream per shard.
    dialogue: whole conversations packed into rows.
              weights  float32, the loss weight of predicting this token; 0 for a conversation's first and padding
              segments uint16, 1, 2, … by conversation within the row; 0 is padding
              roles    uint8, the speaker: 0 or 1

    Tokens are uint16 where the vocabulary allows it, else uint32.
    """

    kind: Kind
    row_length: int
    vocab_size: int

    @property
    def columns(self) -> dict[str, np.dtype[Any]]:
        """Feature name -> dtype, in the order of their bytes (sorted by name, as deterministic protobuf is)."""
        tokens = np.dtype("<u2" if self.vocab_size <= 1 << 16 else "<u4")
        if self.kind == "stream":
            return {"tokens": tokens}
        return {
            "roles": np.dtype("u1"),
            "segments": np.dtype("<u2"),
            "tokens": tokens,
            "weights": np.dtype("<f4"),
        }

    @cached_property
    def _constants(self) -> dict[str, bytes]:
        """Record field -> the bytes that are the same in every record."""
        heads = {name: _feature_header(name, dtype.itemsize * self.row_length) for name, dtype in self.columns.items()}
        body = sum(len(head) for head in heads.values()) + self.row_length * sum(
            dtype.itemsize for dtype in self.columns.values()
        )
        example = _header(1, body)
        length = int(len(example) + body).to_bytes(8, "little")
        return {
            "length": length,
            "length_crc": masked_crcs(np.frombuffer(length, np.uint8)[None]).astype("<u4").tobytes(),
            "example": example,
            **{f"head_{name}": head for name, head in heads.items()},
        }

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """One whole record, framing included, as a packed numpy structure."""
        fields: list[tuple[Any, ...]] = []
        for field in ("length", "length_crc", "example"):
            fields.append((field, f"V{len(self._constants[field])}"))
        for name, column in self.columns.items():
            fields.append((f"head_{name}", f"V{len(self._constants[f'head_{name}'])}"))
            fields.append((name, column, (self.row_length,)))
        fields.append(("crc", "<u4"))
        return np.dtype(fields)

    @cached_property
    def frame(self) -> np.ndarray:
        """The 12 bytes before every record's data: the length and its CRC, which the data's CRC does not cover."""
        return np.frombuffer(self._constants["length"] + self._constants["length_crc"], np.uint8)

    @property
    def data_slice(self) -> slice:
        """Where the serialized Example lies within a record's bytes."""
        return slice(12, self.dtype.itemsize - 4)

    def blank_records(self, n: int) -> np.ndarray:
        """n records with every constant byte in place, columns zero and CRCs not yet computed."""
        record = np.zeros((), self.dtype)
        for field, value in self._constants.items():
            record[field] = np.void(value)
        return np.full(n, record)


class ShardWriter:
    """Appends rows to one shard file; the caller gives a temporary path and renames it when the shard is whole.

    After `close`, `records`, `n_bytes` and `crc32c` (of the whole file, hex) describe the file.
    """

    def __init__(self, path: Path, page_format: PageFormat):
        self._format = page_format
        self._file = path.open("wb", buffering=0)
        self._rows_per_write = max(_BYTES_PER_WRITE // page_format.dtype.itemsize, 1)
        self._buffer = page_format.blank_records(self._rows_per_write)
        self._file_crc = 0
        self.records = 0
        self.n_bytes = 0

    def write(self, rows: Mapping[str, np.ndarray]) -> None:
        """rows: column name -> (n, row_length) array; ids must lie in [0, vocab_size) (ValueError otherwise)."""
        n_rows, row_length = rows["tokens"].shape
        if row_length != self._format.row_length:
            raise ValueError(f"rows of {row_length} tokens do not fit pages of {self._format.row_length}")
        tokens = rows["tokens"]
        if n_rows and (int(tokens.max()) >= self._format.vocab_size or int(tokens.min()) < 0):
            bad = tokens[(tokens < 0) | (tokens >= self._format.vocab_size)][0]
            raise UserError(
                f"token id {bad} is outside the vocabulary of {self._format.vocab_size} ids; "
                "write with the tokenizer whose vocabulary the manifest will name"
            )
        for start in range(0, n_rows, self._rows_per_write):
            part = self._buffer[: min(self._rows_per_write, n_rows - start)]
            for name in self._format.columns:
                part[name] = rows[name][start : start + len(part)]
            raw = part.view(np.uint8).reshape(len(part), -1)
            part["crc"] = masked_crcs(raw[:, self._format.data_slice])
            self._write_all(raw.tobytes())
            self.records += len(part)

    def _write_all(self, data: bytes) -> None:
        self._file_crc = google_crc32c.extend(self._file_crc, data)
        self.n_bytes += len(data)
        rest = memoryview(data)
        while rest:  # a raw write may be short when the disk fills up; the next one then raises
            rest = rest[self._file.write(rest) :]

    @property
    def crc32c(self) -> str:
        return f"{self._file_crc:08x}"

    def close(self) -> None:
        self._file.close()


class Shard:
    """A shard on disk as a read-only array of rows; the file is memory-mapped and never loaded whole.

    records: how many the manifest promises; another file size is a truncated or foreign file (UserError).
    """

    def __init__(self, path: Path, page_format: PageFormat, records: int):
        self.path, self.format = path, page_format
        record_bytes = page_format.dtype.itemsize
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            raise UserError(f"{path} is missing; build the pages again or copy the whole folder") from None
        if found != records * record_bytes:
            raise UserError(
                f"{path} has {found} bytes, its manifest promises {records} records of {record_bytes} bytes "
                f"({records * record_bytes}); truncated, or not the file that was built: build the pages again"
            )
        data = np.asarray(np.memmap(path, np.uint8, "r")) if records else np.empty(0, np.uint8)
        self._bytes = data.reshape(records, record_bytes)

    def __len__(self) -> int:
        return len(self._bytes)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Rows at `indices` (n,) -> structured array (n,) with a field per column.

        Each row's CRC, frame and ids are checked; a damaged or foreign record raises UserError with its number.
        """
        raw = self._bytes[indices]
        rows = raw.view(self.format.dtype)[:, 0]
        computed = masked_crcs(raw[:, self.format.data_slice])
        bad_frame = (raw[:, :12] != self.format.frame).any(axis=1)
        wrong = (rows["crc"] != computed) | bad_frame
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            stored, expected = f"CRC {int(rows['crc'][at]):08x}", f"{int(computed[at]):08x}"
            if bad_frame[at]:
                stored, expected = f"frame {raw[at, :12].tobytes().hex()}", self.format.frame.tobytes().hex()
            raise UserError(
                f"{self.path}: record {int(indices[at])} is damaged: stored {stored}, computed {expected}; "
                "build the pages again or copy the file from its source"
            )
        tokens = rows["tokens"]
        if tokens.size and tokens.max() >= self.format.vocab_size:
            row, at = np.argwhere(tokens >= self.format.vocab_size)[0]
            raise UserError(
                f"{self.path}: record {int(indices[row])} holds token id {tokens[row, at]}, outside the vocabulary of "
                f"{self.format.vocab_size}; build the pages again with the manifest's tokenizer"
            )
        return rows

    def read_span(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the shard seen as one stream -> (stop - start,)."""
        first, last = start // self.format.row_length, -(-stop // self.format.row_length)
        tokens = self.read(np.arange(first, last))["tokens"].reshape(-1)
        return tokens[start - first * self.format.row_length :][: stop - start]
