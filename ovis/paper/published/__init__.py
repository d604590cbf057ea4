"""The numbers that the paper and its figures show, as CSV files."""
