"""What rank.py extract and train.py print of a text: JSON lines, and phrases for a reader."""
