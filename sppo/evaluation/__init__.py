"""How good a new policy is, and whether to go on."""
