"""A made-up second-hand market, whose best reachable ranking is known."""
