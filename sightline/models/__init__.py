"""VLM families: one file each behind one protocol, and the attention that they share."""
