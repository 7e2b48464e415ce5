"""What heads are used for: keyphrases, word weights, search."""
