"""Search with weighted words: BM25 whose term frequencies are mixed with word weights."""
