"""Floor 1: the one door to a network."""
