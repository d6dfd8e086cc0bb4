"""Sightline trains vision-language models to reason, by reinforcement learning from verifiable rewards."""
