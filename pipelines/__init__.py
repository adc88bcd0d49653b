"""The data: parquet to batch."""
