"""What changes the weights: packed rows, log-probabilities, gradients, optimizer."""
