"""The sections of the configuration, a file a subject."""
