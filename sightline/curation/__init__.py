"""Work on data before training: prepare, convert, inspect, filter, synthesize."""
