"""jaxrec: session-based and sequential recommenders in JAX, with the training loop on the accelerator."""

__version__ = "0.1.0"
