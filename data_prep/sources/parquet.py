"""Documents in a column of Parquet files."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from data_prep.sources.chunk import Chunk
from data_prep.sources.files import FileSource, with_bases
from jaxgpt.data import storage
from jaxgpt.errors import UserError


@dataclass(frozen=True)
class Parquet(FileSource):
    """column: of strings; a row without one counts as an empty document."""

    column: str = "text"
    holds: ClassVar[Literal["documents"]] = "documents"

    def chunks(self, begin: int, chunk_bytes: int) -> Iterator[Chunk]:
        """Runs of rows within a row group; the rows are read here, so that a group is decompressed once."""
        import pyarrow as pa
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
                        if group.num_rows and base + file.bytes * last_row // table.metadata.num_rows > begin:
                            size = self._column_bytes(group)
                            rows = max(chunk_bytes * group.num_rows // max(size, 1), 1)
                            at = first_row
                            for batch in table.iter_batches(rows, [number], [self.column], use_threads=False):
                                position = base + file.bytes * at // table.metadata.num_rows
                                yield Chunk(position, file.path, at, batch.column(0))
                                at += batch.num_rows
                        first_row = last_row
                except (OSError, pa.ArrowException) as error:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                    raise UserError(
                        f"{file.path} is no whole Parquet file ({' '.join(str(error).split())}); copy it again, or "
                        "leave it out of --source"
                    ) from None

    def _check_column(self, path: str, schema: Any) -> None:
        import pyarrow.types as kinds

        found = schema.field(self.column).type if self.column in schema.names else None
        values = found.value_type if found is not None and kinds.is_dictionary(found) else found
        if values is None or not (
            kinds.is_string(values) or kinds.is_large_string(values) or kinds.is_string_view(values)
        ):
            what = "has no column" if found is None else f"has {found}, not strings, in the column"
            raise UserError(f"{path} {what} {self.column!r}; name one of {', '.join(schema.names)} with --text_field")

    def _column_bytes(self, group: Any) -> int:
        columns = (group.column(index) for index in range(group.num_columns))
        return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == self.column)

    def read(self, chunk: Chunk) -> Iterator[str]:
        for text in chunk.data.to_pylist():
            yield text or ""
