"""Programs of runs, written for processes without jaxrec."""
