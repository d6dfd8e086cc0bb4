"""Where engines and learners run."""
