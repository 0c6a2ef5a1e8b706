"""Tracking in MLflow: one parent run an alignment run, one nested run and one logged model an iteration.

Each stage first writes what it has to say into the store (a `Record`) and then sends every record that is not sent yet.
So MLflow being down never fails a stage, and nothing is lost: the next stage, or the next resume, sends it. Sending a
record twice changes nothing.
"""

from sppo.errors import without_password
from sppo.reporting.tracking.database import tracking_uri
from sppo.reporting.tracking.record import Dataset, Model, Publication, Record
from sppo.reporting.tracking.track import track

__all__ = ["Dataset", "Model", "Publication", "Record", "track", "tracking_uri", "without_password"]
