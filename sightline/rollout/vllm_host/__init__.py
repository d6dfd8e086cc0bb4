"""The process that owns a vLLM engine: `python -m sightline.rollout.vllm_host READ_FD WRITE_FD PARENT_PID`.

Nothing outside this package imports vllm, and the trainer imports nothing of this package: the two talk in
`sightline/rollout/frames.py`.
"""
