"""A chat template that asks as training did: a client sends the bare question, and the model reads the whole prompt.

It does to a conversation what `data/problems.py` `asked` does to a problem: the recipe's template goes around the last
user message, texts that then meet become one, and the system prompt comes first, unless the client gave its own. Then
the checkpoint's own template goes on, word for word.
"""

import re

from sightline.data.config import SourceConfig
from sightline.models.family import Family

# A name for all that is kept, which no template has. Inside a loop Jinja changes nothing but a namespace, and the
# sandbox in which templates run lets no list be changed: a longer one takes its place.
_PREAMBLE = """\
{%- set sightline = namespace(messages=[], parts=[], text='', last=-1, is_told=false) -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{%- set sightline.last = loop.index0 -%}
{%- elif message['role'] in ['system', 'developer'] -%}
{%- set sightline.is_told = true -%}
{%- endif -%}
{%- endfor -%}
{%- if not sightline.is_told and SYSTEM -%}
{%- set sightline.messages = [{'role': 'system', 'content': [{'type': 'text', 'text': SYSTEM}]}] -%}
{%- endif -%}
{%- for message in messages -%}
{%- if loop.index0 == sightline.last -%}
{%- set sightline.text = BEFORE -%}
{%- if message['content'] is string -%}
{%- set sightline.text = sightline.text ~ message['content'] -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{%- set sightline.text = sightline.text ~ part['text'] -%}
{%- else -%}
{%- if sightline.text -%}
{%- set sightline.parts = sightline.parts + [{'type': 'text', 'text': sightline.text}] -%}
{%- endif -%}
{%- set sightline.parts = sightline.parts + [part] -%}
{%- set sightline.text = '' -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set sightline.text = sightline.text ~ AFTER -%}
{%- if sightline.text -%}
{%- set sightline.parts = sightline.parts + [{'type': 'text', 'text': sightline.text}] -%}
{%- endif -%}
{%- set sightline.messages = sightline.messages + [dict(message, content=sightline.parts)] -%}
{%- else -%}
{%- set sightline.messages = sightline.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = sightline.messages %}
"""
_PLACE = re.compile("SYSTEM|BEFORE|AFTER")


def chat_template_of(family: Family) -> str:
    """The checkpoint's own template, by which prompts of training were written."""
    template = family.processor.chat_template
    return template["default"] if isinstance(template, dict) else str(template)


def served_template(template: str, asking: SourceConfig) -> str:
    """`template` after what makes a client's conversation one of training's; itself if training asked as it is.

    For transformers' Jinja (trim_blocks), which leaves out the newline after the preamble's last tag.
    """
    before, after = asking.template_ends
    if not before and not after and not asking.system_prompt:
        return template
    texts = {"SYSTEM": asking.system_prompt or "", "BEFORE": before, "AFTER": after}
    return _PLACE.sub(lambda place: _literal(texts[place[0]]), _PREAMBLE) + template


def _literal(text: str) -> str:
    """A text as Jinja writes it: plain ASCII, without a quote or brace that could end the string or the tag."""
    escaped = text.encode("unicode_escape").decode("ascii")
    for sign in "'\"{}%#":
        escaped = escaped.replace(sign, f"\\x{ord(sign):02x}")
    return f"'{escaped}'"
