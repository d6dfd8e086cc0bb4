"""What samples answers: engines behind one protocol."""
