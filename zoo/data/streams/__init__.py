"""Data that is read piece by piece from shards, parquet files and token files, in an order keyed by step."""
