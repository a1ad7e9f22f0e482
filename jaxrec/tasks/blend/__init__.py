"""Next items of sessions, by trained runs and nearest neighbours together; see ``jaxrec.models.blend``."""

READS = "sessions"  # data sets of this kind
