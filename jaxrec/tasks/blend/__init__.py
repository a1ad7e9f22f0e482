"""Next items of sessions, by trained runs and nearest neighbours together; see ``jaxrec.models.blend``."""

from jaxrec.tasks import sessions

READS = "sessions"  # data sets of this kind

Evaluation = sessions.Evaluation
