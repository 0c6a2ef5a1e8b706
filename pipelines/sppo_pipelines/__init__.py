"""The looped pipeline, its placement on hardware, and the command line."""
