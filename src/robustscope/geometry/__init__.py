"""Floor 1: pure tensor functions: distances, projections, steps, losses."""
