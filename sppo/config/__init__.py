"""What a run is asked for: its sections, presets, and how values become a checked configuration."""
