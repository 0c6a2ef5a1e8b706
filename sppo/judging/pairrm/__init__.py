"""PairRM, the paper's preference model, in either of its published layouts."""
