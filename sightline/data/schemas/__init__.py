"""The published formats of rows that are read, one file each; the first that recognises a row's columns reads it."""

from sightline.data.rows import Columns, Schema
from sightline.data.schemas import (
    conversations,
    lmm_r1,
    openai,
    problem_answer,
    r1v,
    r1v_eval,
    rec,
    sightline,
    trl,
    verl,
)

SCHEMAS: dict[str, Schema] = {  # from the most specific to the most general
    "sightline": sightline.SCHEMA,
    "verl": verl.SCHEMA,
    "conversations": conversations.SCHEMA,
    "openai": openai.SCHEMA,
    "lmm_r1": lmm_r1.SCHEMA,
    "r1v_eval": r1v_eval.SCHEMA,
    "rec": rec.SCHEMA,
    "r1v": r1v.SCHEMA,
    "problem_answer": problem_answer.SCHEMA,
    "trl": trl.SCHEMA,
}


def recognise(columns: Columns) -> str | None:
    """The name of the format that a row with these columns is of; None if there is none."""
    return next((name for name, schema in SCHEMAS.items() if schema.recognises(columns)), None)
