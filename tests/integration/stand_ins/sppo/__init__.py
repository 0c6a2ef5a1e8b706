"""Stages that only write down how they were called, to test what the pipeline does around them."""
