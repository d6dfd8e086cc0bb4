"""The answer within a decoded sequence, as other trainers send it: prompt, answer, special tokens and padding."""

import re

_END_OF_TURN = (
    r"<\|im_end\|>|<\|endoftext\|>|<\|eot_id\|>|<\|end_of_text\|>|<\|end\|>|<end_of_turn>|<end_of_utterance>|</s>|"
    r"<｜end▁of▁sentence｜>"
)
_PADDING = r"<pad>|<\|pad\|>|\[PAD\]|<\|finetune_right_pad_id\|>|<｜▁pad▁｜>"
_ENDS = re.compile(f"{_END_OF_TURN}|{_PADDING}|<eos>")
_LEADING_PADDING = re.compile(f"(?:{_END_OF_TURN}|{_PADDING}|<eos>)+")
_HEADERS = re.compile(
    r"<\|im_start\|>assistant(?:\n|<\|im_sep\|>)|<\|start_header_id\|>assistant<\|end_header_id\|>\s{0,2}|"
    r"<\|assistant\|>\n?|<start_of_turn>model\n|<｜Assistant｜>|\[/INST\]"
)
_PLAIN_HEADERS = re.compile(r"(?:Assistant|ASSISTANT):[ \n]?")


def response_in(query: str, prompt: str) -> str:
    """The answer alone, without end-of-turn and padding tokens, from prompt and answer as one decoded text.

    It is what stands behind the prompt if the query begins with that; else behind the last header of an assistant's
    turn that a known chat template writes; else behind the last plain "Assistant:"; else the whole query.
    """
    text = query
    if padding := _LEADING_PADDING.match(text):
        text = text[padding.end() :]
    if prompt and text.startswith(prompt):
        return _until_end(text[len(prompt) :])
    for headers in (_HEADERS, _PLAIN_HEADERS):
        ends = [header.end() for header in headers.finditer(text)]
        if ends:
            return _until_end(text[ends[-1] :])
    return _until_end(text)


def _until_end(text: str) -> str:
    end = _ENDS.search(text)
    return text if end is None else text[: end.start()]
