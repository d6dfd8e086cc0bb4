"""Generation by vLLM in processes of their own, one for each copy of the model; this process never imports vllm.

What was lost with a process that died or hung is generated again, with the same seeds.
"""

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from sightline.errors import RunError
from sightline.images import ImageStore
from sightline.models.family import Family
from sightline.models.lora import PlainWeights
from sightline.progress import PhaseLine, phase_line
from sightline.rollout.engine import Sampling
from sightline.rollout.engine_process import EngineFailure, EngineProcess, host_command
from sightline.rollout.engine_settings import EngineSettings
from sightline.rollout.frames import Frame
from sightline.rollout.replicas import Replicas
from sightline.rollout.sampling import first_indices
from sightline.rollout.vllm_groups import GroupReader, Request, deal, generate_frame, pictures_frame
from sightline.types import Prompt, Rollout

_THREAD_SECONDS = 15.0  # for a thread to see that its process was killed


@dataclass(frozen=True, slots=True)
class _Event:
    """What the thread that talks with a process tells the call."""

    process: EngineProcess
    news: Frame | BaseException


_Events = SimpleQueue[_Event]


class VllmEngine:
    """Deals prompts to vLLM processes, which start in the background; the first call waits for them.

    `command` starts a process, and gets the descriptors that it reads and writes, and this process's id, appended;
    None: vLLM. Every process has its log: `log_file`, and beside it one with a number for each after the first.
    """

    def __init__(
        self,
        family: Family,
        images: ImageStore,
        settings: EngineSettings,
        *,
        log_file: Path,
        policy_version: int = 0,
        command: Sequence[str] | None = None,
    ) -> None:
        self._family = family
        self._images = images
        self._policy_version = policy_version
        self._threads: list[threading.Thread] = []
        self._replicas = Replicas(
            settings, command or host_command(), log_file=log_file, checkpoint_name=family.checkpoint_name
        )
        self._kill = weakref.finalize(self, self._replicas.kill)  # however this engine is lost, its processes end

    def load_weights(self, weights: PlainWeights, *, policy_version: int) -> None:
        """See `Engine.load_weights`. Raises RunError if the processes can't be brought to take them."""
        self._require_open()
        self._policy_version = policy_version
        with self._replicas.one_call():
            self._replicas.load(weights)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        """See `Engine.generate`. Raises RunError if processes fail too often, refuse, or answer what can't be."""
        self._require_open()
        if not prompts:
            return []
        firsts = first_indices(prompts, sampling.group_size)
        requests = [Request(number, prompt, firsts[number]) for number, prompt in enumerate(prompts)]
        groups: dict[int, list[Rollout]] = {}
        with self._replicas.one_call():
            try:
                with phase_line("rollout", total=len(prompts)) as line:
                    while missing := [request for request in requests if request.number not in groups]:
                        self._replicas.make_ready()
                        self._replicas.replace(self._fill(groups, missing, sampling, line))
                self._replicas.sleep()
            except BaseException:
                self._end_threads()
                raise
        return [groups[number] for number in range(len(prompts))]

    def metrics(self) -> dict[str, float]:
        """See `Engine.metrics`: seconds, bytes and restarts; what did not occur is left out."""
        figures = {f"engine/{name}": value for name, value in self._replicas.figures.items()}
        self._replicas.figures.clear()
        return figures

    def close(self) -> None:
        """See `Engine.close`."""
        if self._kill.alive:
            self._end_threads()
            self._replicas.close()
            self._kill()

    def _require_open(self) -> None:
        assert self._kill.alive, "the engine was closed"

    def _end_threads(self) -> None:
        self._replicas.interrupt()
        for thread in self._threads:
            thread.join(_THREAD_SECONDS)
        self._threads = []

    def _fill(
        self, groups: dict[int, list[Rollout]], requests: Sequence[Request], sampling: Sampling, line: PhaseLine
    ) -> list[EngineFailure]:
        """Ask all processes at once, and add what they answer to `groups`; those that failed before their end."""
        processes = self._replicas.processes
        shares = zip(processes, deal(requests, len(processes), sampling), strict=True)
        asked = {process: share for process, share in shares if share}
        references = {image.digest: image for request in requests for image in request.prompt.images}
        pictures = partial(pictures_frame, self._images, references)
        events: _Events = SimpleQueue()
        deadline = self._replicas.deadline()
        self._threads = [
            threading.Thread(
                target=_converse,
                args=(process, generate_frame(self._family, share, sampling), pictures, deadline, events),
                daemon=True,
                name="rollout of a vLLM engine",
            )
            for process, share in asked.items()
        ]
        for thread in self._threads:
            thread.start()
        reader = GroupReader(self._family, sampling, policy_version=self._policy_version)
        failures = _collect(events, asked, reader, groups, line)
        self._end_threads()
        return failures


def _converse(
    process: EngineProcess,
    request: Frame,
    pictures: Callable[[Sequence[str]], Frame],
    deadline: float,
    events: _Events,
) -> None:
    """Ask a process for groups and give it the pictures that it lacks; runs in a thread, to the process's last word."""
    try:
        process.send(request, deadline=deadline)
        while True:
            reply = process.receive(deadline=deadline)
            match reply.type:
                case "need":
                    process.send(pictures(reply.head["digests"]), deadline=deadline)
                case "group" | "progress":
                    events.put(_Event(process, reply))
                case "done":
                    events.put(_Event(process, reply))
                    return
                case other:
                    raise process.fail(f"answered 'generate' with {other!r}")  # noqa: TRY301 (one way out)
    except BaseException as error:  # noqa: BLE001 (raised again by the call)
        events.put(_Event(process, error))


def _collect(
    events: _Events,
    asked: Mapping[EngineProcess, Sequence[Request]],
    reader: GroupReader,
    groups: dict[int, list[Rollout]],
    line: PhaseLine,
) -> list[EngineFailure]:
    """Take in events until every process has said its last."""
    began = time.monotonic()
    num_tokens: Counter[EngineProcess] = Counter()
    failures: list[EngineFailure] = []
    status = ""
    num_open = len(asked)
    while num_open:
        event = events.get()
        news, process = event.news, event.process
        if isinstance(news, EngineFailure):
            failures.append(news)
            num_open -= 1
        elif isinstance(news, BaseException):
            raise news
        elif news.type == "group":
            request = _answered(news, asked[process], groups)
            groups[request.number] = reader.read(request, news)
            line.advance(1, status)
        elif news.type == "progress":
            num_tokens[process] = news.head["num_tokens"]
            status = f"{num_tokens.total() / (time.monotonic() - began):.0f} tokens/s"
            line.advance(0, status)
        else:
            num_open -= 1
            if lacking := [request for request in asked[process] if request.number not in groups]:
                failures.append(process.fail(f"ended a rollout without {len(lacking)} of its groups"))
    return failures


def _answered(group: Frame, asked: Sequence[Request], groups: Mapping[int, object]) -> Request:
    """The request that a group answers."""
    number = group.head.get("prompt")
    if not isinstance(number, int) or not 0 <= number < len(asked) or asked[number].number in groups:
        raise RunError(
            f"the vLLM engine answered prompt {number} of {len(asked)} twice or unasked; report this with the vLLM "
            "version, and go on with engine=transformers"
        )
    return asked[number]
