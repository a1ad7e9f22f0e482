"""The kinds of problem: a folder each, with its task for the training loop, its judge and its recommender."""
