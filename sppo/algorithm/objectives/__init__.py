"""Objectives, a file each: `sppo.py` is what `train.objective=sppo` names; `base.py` says what an objective is."""
