"""What is in a data set: figures, findings, rows that can't be used, a page with examples."""
