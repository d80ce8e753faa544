"""What of a model is shown to others: a folder of chosen files, and a card made from its record."""
