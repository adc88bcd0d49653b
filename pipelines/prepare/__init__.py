"""Raw logs to the parquet layouts."""
