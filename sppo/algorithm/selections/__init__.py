"""Pair selections, a file each: `all.py` is what `rank.selection=all` names; `base.py` says what a selection is."""
