"""Floor 0: nouns and rules. Torch and the standard library only."""
