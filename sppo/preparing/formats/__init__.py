"""Prompt formats, a file each: `text.py` is what `prepare.format=text` names; `base.py` says what a format is."""
