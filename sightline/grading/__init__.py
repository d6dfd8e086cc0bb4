"""The grader: whether an answer is right; one for training, data, evaluation and `sightline grade`.

A response's answer span is found (`spans.py`) and compared with the gold answers by their kind (`grade.py`); what needs
symbolic mathematics runs in processes that can be killed (`pool.py`). Nothing that a model wrote is ever run as code.
"""
