"""Where a run's outputs lie: committed folders in a folder or in S3, their keys, and the tables in them."""
