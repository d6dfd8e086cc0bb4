"""Grading a log: any file of answers that somebody's model gave, by our rules or by those of a predecessor.

`log.grade_file` grades, `table.table` and `table.rows_as_json` show. Nothing is imported here: workers that
grade as R1-V does need `r1v.py` alone.
"""
