"""A trained model behind OpenAI's web format, by vLLM in a process of its own."""
