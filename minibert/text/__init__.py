"""Words of a text, and the word pieces that the model reads."""
