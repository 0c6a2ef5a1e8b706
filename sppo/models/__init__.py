"""Model folders: fetching, checking, loading and saving a policy."""
