"""Reading parquet without threads."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(source: Path | pa.BufferReader) -> pa.Table:
    """Returns a whole parquet file.

    ``pq.read_table`` starts Arrow's thread pools, even with ``use_threads=False``, and a process that ends while one of
    their threads still runs is aborted ("terminate called without an active exception", exit code 134; apache/arrow
    issue 34314). Tables of clips and tracks are small: one thread reads them as fast, and leaves none behind.

    Raises:
        OSError, pyarrow.ArrowException: If the file is missing or damaged.
    """
    with pq.ParquetFile(source, pre_buffer=False) as file:
        return file.read(use_threads=False)
