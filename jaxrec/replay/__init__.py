"""A raw log replayed by days: train up to a day, test on the next, with and without retraining."""
