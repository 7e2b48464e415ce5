"""Phrases without a model: candidates, and scores of a ranked list."""
