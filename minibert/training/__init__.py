"""Fine-tuning within a memory budget."""
