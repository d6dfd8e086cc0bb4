"""Verified data from an LLM: rewritten questions, checked against the original and by agreement."""
