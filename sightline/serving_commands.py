"""`sightline serve` and `sightline chat`: a trained model for other programs, and for people."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.errors import ConfigError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]


def add_serving_commands(commands: "Commands") -> None:
    """Add `serve` and `chat` to the command line."""
    _add_serve(commands)
    _add_chat(commands)


def _add_serve(commands: "Commands") -> None:
    about = "an OpenAI-compatible server of a trained model, by vLLM"
    command = commands.add_parser("serve", help=about, description=f"{about[0].upper()}{about[1:]}.")
    _add_checkpoint(command)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    command.add_argument("--port", type=int, default=8000, help="0: any free one (default 8000)")
    command.add_argument("--name", help="by which clients ask for the model (default: of the run or checkpoint)")
    command.add_argument(
        "--token-variable", metavar="VAR", help="environment variable with the token (default: one is made and shown)"
    )
    command.add_argument(
        "--max-model-tokens", type=int, metavar="N", help="longest prompt with its answer (default: what fits)"
    )
    command.add_argument("--allow-urls", action="store_true", help="fetch pictures that requests name by address")
    command.add_argument(
        "--gpu-memory-fraction", type=float, metavar="F", help="of the GPU's memory, for vLLM (default 0.9)"
    )
    command.set_defaults(run=_serve)


def _add_chat(commands: "Commands") -> None:
    about = "answer one question in the terminal"
    command = commands.add_parser("chat", help=about, description=f"{about.capitalize()}.")
    _add_checkpoint(command)
    # by this name `sightline.cli` collects what stands behind an option too, where argparse takes it for nothing
    command.add_argument("overrides", nargs="*", metavar="QUESTION", help="default: read from standard input")
    command.add_argument("--image", type=Path, action="append", default=[], metavar="FILE", help="can be given again")
    command.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest answer (default 0)")
    command.add_argument("--max-response-tokens", type=int, default=1024)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--engine", choices=("auto", "transformers", "vllm"), default="auto", help="as in recipes (default auto)"
    )
    command.set_defaults(run=_chat)


def _add_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or hub name")
    command.add_argument(
        "--recipe", type=Path, metavar="RECIPE.yaml", help="ask as in this training (default: the checkpoint's run)"
    )
    command.add_argument("--no-template", action="store_true", help="put the question to the model as it stands")


def _serve(options: argparse.Namespace) -> None:
    from sightline.serving.server import ServeOptions, serve

    _quiet_libraries()
    serve(
        ServeOptions(
            checkpoint=options.checkpoint,
            recipe=options.recipe,
            with_template=not options.no_template,
            host=options.host,
            port=options.port,
            name=options.name,
            token_variable=options.token_variable,
            max_model_tokens=options.max_model_tokens,
            allows_urls=options.allow_urls,
            gpu_memory_fraction=options.gpu_memory_fraction,
        )
    )


def _chat(options: argparse.Namespace) -> None:
    from sightline.chat import ChatOptions, chat

    _quiet_libraries()
    reply = chat(
        ChatOptions(
            checkpoint=options.checkpoint,
            question=_question(options.overrides),
            images=tuple(options.image),
            recipe=options.recipe,
            with_template=not options.no_template,
            temperature=options.temperature,
            max_response_tokens=options.max_response_tokens,
            seed=options.seed,
            engine=options.engine,
        )
    )
    print(reply.text)
    if reply.is_truncated:
        num_tokens = len(reply.token_ids)
        is_asked_limit = num_tokens == options.max_response_tokens
        why = "--max-response-tokens allows more" if is_asked_limit else "the model takes no more"
        print(f"sightline: the answer was cut off after {num_tokens} tokens; {why}", file=sys.stderr)


def _question(words: Sequence[str]) -> str:
    """The question as it was given, or from a pipe or file, or from whoever sits at the terminal."""
    if words:
        if len(words) > 1:
            raise ConfigError(f"the question has {len(words)} parts, the second {words[1]!r}; write it in quotes")
        return words[0]
    if not sys.stdin.isatty():
        return sys.stdin.read().strip()
    print("question: ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise ConfigError("there is no question; give it as QUESTION, or on standard input")
    return line.strip()


def _quiet_libraries() -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
