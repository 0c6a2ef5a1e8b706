"""The paper's benchmarks: AlpacaEval 2, MT-Bench and tasks of the Open LLM Leaderboard (section 5.1)."""
