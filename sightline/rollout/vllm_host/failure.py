"""What the host tells its parent when it can't do what it was asked."""

from vllm.exceptions import VLLMNotFoundError, VLLMValidationError

# Raised at what vLLM will not take, now or when it is asked again; the first covers the other two in 0.26 only.
REFUSALS = (ValueError, VLLMValidationError, VLLMNotFoundError)

_MAX_LINE_CHARS = 500


class HostError(Exception):
    """One line for the user; `is_final`: asking again would fail again."""

    def __init__(self, message: str, *, is_final: bool) -> None:
        super().__init__(message)
        self.is_final = is_final


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of its text."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return text[:_MAX_LINE_CHARS]
