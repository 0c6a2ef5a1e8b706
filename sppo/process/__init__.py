"""What a stage's process begins and ends with: surroundings, errors, exit codes, and further tries."""
