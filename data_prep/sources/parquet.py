"""Documents in a column of Parquet files."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data_prep.sources.chunk import Chunk
from data_prep.sources.files import InputFile, fingerprint, total_bytes, with_bases
from jaxgpt.data import storage
from jaxgpt.errors import UserError


@dataclass(frozen=True)
class Parquet:
    """column: of strings; a row without one counts as an empty document."""

    spec: str
    files: tuple[InputFile, ...]
    column: str = "text"
    holds: ClassVar[Literal["documents"]] = "documents"

    @property
    def size(self) -> int:
        return total_bytes(self.files)

    def fingerprint(self) -> list[dict[str, Any]]:
        return fingerprint(self.files)

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        """Runs of rows within a row group; the rows are read here, so that a group is decompressed once."""
        import pyarrow.parquet as pq

        for file, base in with_bases(self.files, begin):
            with storage.open_binary(file.path) as raw:
                try:
                    table = pq.ParquetFile(raw, buffer_size=1 << 20)
                    first_row = 0
                    self._check_column(file.path, table.schema_arrow)
                    for number in range(table.num_row_groups):
                        group = table.metadata.row_group(number)
                        last_row = first_row + group.num_rows
                        if base + file.bytes * last_row // table.metadata.num_rows > begin:
                            size = self._column_bytes(group)
                            rows = max(chunk_bytes * group.num_rows // max(size, 1), 1)
                            at = first_row
                            for batch in table.iter_batches(rows, [number], [self.column], use_threads=False):
                                position = base + file.bytes * at // table.metadata.num_rows
                                yield Chunk(position, file.path, at, batch.column(0))
                                at += batch.num_rows
                        first_row = last_row
                except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
                    if isinstance(error, UserError):
                        raise
                    raise UserError(
                        f"{file.path} is no whole Parquet file ({' '.join(str(error).split())}); copy it again, or "
                        "leave it out of --source"
                    ) from None

    def _check_column(self, path: str, schema: Any) -> None:
        import pyarrow.types as kinds

        found = schema.field(self.column).type if self.column in schema.names else None
        if found is None or not (kinds.is_string(found) or kinds.is_large_string(found)):
            what = "has no column" if found is None else f"has {found}, not strings, in the column"
            raise UserError(f"{path} {what} {self.column!r}; name one of {', '.join(schema.names)} with --text_field")

    def _column_bytes(self, group: Any) -> int:
        columns = (group.column(index) for index in range(group.num_columns))
        return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == self.column)

    def read(self, chunk: Chunk) -> Iterator[str]:
        for text in chunk.data.to_pylist():
            yield text or ""
