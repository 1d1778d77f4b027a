"""Sources to records to batches."""
