"""One file per source: each turns recordings into a clip store and downloads nothing."""
