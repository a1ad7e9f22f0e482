"""Next items of sequences of typed events, by what items are called."""
