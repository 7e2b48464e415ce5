"""Numbers, texts and figures as a terminal, a file or a page shows them."""
