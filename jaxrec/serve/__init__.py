"""A server over one run of any kind: HTTP (``app``), a queue before the device (``engine``), followed ``sessions``."""
