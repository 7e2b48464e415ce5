"""Text -> labelled documents -> windows -> batches."""
