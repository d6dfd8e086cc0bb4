"""The copies of the model that vLLM processes hold: kept alive, awake and on the learner's weights."""

import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError

from sightline.errors import RunError
from sightline.models.lora import PlainWeights
from sightline.rollout.engine_process import EngineFailure, EngineProcess, ask_all
from sightline.rollout.engine_settings import SHARED_MEMORY, EngineSettings
from sightline.rollout.frames import Frame
from sightline.rollout.weight_sender import WeightSender

_STOP_SECONDS = 10.0  # for an idle process to end by itself
_TAGS = ("weights", "kv_cache")  # vLLM's names of what sleeps
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Replica:
    """A copy of the model: the process that has it now, and what that process holds."""

    devices: tuple[int, ...]
    log_file: Path
    process: EngineProcess
    has_been_ready: bool = False  # this process, or one before it
    is_interrupted: bool = False  # its process was killed though it had not failed
    num_loads: int | None = 0  # how many times weights were given that it has; 0: those on disk, None: it has none
    asleep: set[str] = field(default_factory=set[str])  # what it gave up until it is woken


class Replicas:
    """One process for each entry of `settings.devices`; all start at once, in the background."""

    def __init__(
        self,
        settings: EngineSettings,
        command: Sequence[str],
        *,
        log_file: Path,
        checkpoint_name: Callable[[str], str],
    ) -> None:
        self.figures: defaultdict[str, float] = defaultdict(float)  # seconds, bytes and numbers of what was done
        self._settings = settings
        self._command = tuple(command)
        self._checkpoint_name = checkpoint_name
        self._weights: PlainWeights | None = None  # the learner's, once they were given
        self._changed: dict[str, None] = {}  # names, in order, of the weights that are no longer those on disk
        self._num_loads = 0
        self._restarts_left = 0
        self._sender = WeightSender(
            settings.transfer,
            dtype=_DTYPES[settings.host.dtype],
            bucket_bytes=settings.bucket_bytes,
            workers_per_process=settings.host.tensor_parallel_size,
        )
        self._replicas: list[_Replica] = []
        for number, devices in enumerate(settings.devices):
            log = log_file if number == 0 else log_file.with_stem(f"{log_file.stem}_{number}")
            self._replicas.append(_Replica(devices, log, self._start(devices, log)))

    @property
    def processes(self) -> list[EngineProcess]:
        """The process of each replica; another one after a restart."""
        return [replica.process for replica in self._replicas]

    @contextmanager
    def one_call(self) -> Generator[None]:
        """Within it processes are restarted `max_restarts` times at most; an error leaves none that is still busy."""
        self._restarts_left = self._settings.max_restarts
        try:
            yield
        except BaseException:
            self.interrupt()
            raise

    def deadline(self) -> float:
        """Until when a request that is made now must be answered, in seconds of time.monotonic()."""
        return time.monotonic() + self._settings.deadline_seconds

    def load(self, weights: PlainWeights) -> None:
        """Give all processes these weights; restarted ones get them as well, so they must stay until the next call."""
        self._weights = weights
        self._changed |= dict.fromkeys(weights.changing)
        self._num_loads += 1
        self._until_it_works(self._refresh)
        self.sleep()  # only processes that have not slept yet: the learner may work for long before the first rollout

    def make_ready(self) -> None:
        """Have all processes ready to generate from the weights that were given last."""
        self._until_it_works(lambda: self._refresh() or self._wake(self._replicas, _TAGS))

    def sleep(self) -> None:
        """Let all processes give up memory, if the settings say so."""
        if self._settings.host.sleep_level > 0:
            self._until_it_works(self._sleep)

    def replace(self, failures: Iterable[EngineFailure]) -> None:
        """Start other processes for those that failed. Raises RunError beyond the limit of restarts."""
        limit = self._settings.max_restarts
        for failure in failures:
            replica = next(each for each in self._replicas if each.process is failure.process)
            if not replica.has_been_ready:
                raise RunError(
                    f"the vLLM engine can't be started: its process {failure}; see {replica.log_file}; "
                    "mend what it says, or take engine=transformers"
                )
            if self._restarts_left == 0:
                raise RunError(
                    f"the vLLM engine failed {limit + 1} times in one call, and vllm.max_restarts is {limit}: its "
                    f"process {failure}; see {replica.log_file}; mend what it says, or take engine=transformers"
                )
            self._restarts_left -= 1
            self.figures["restarts"] += 1
            number = limit - self._restarts_left
            _log.warning(
                "the vLLM process %s; starting it again (%d of at most %d times); see %s",
                failure,
                number,
                limit,
                replica.log_file,
            )
            self._renew(replica)

    def interrupt(self) -> None:
        """Kill the processes that have not answered; they are started again when they are needed."""
        for replica in self._replicas:
            if replica.process.is_busy:
                replica.process.kill()
                replica.is_interrupted = True

    def kill(self) -> None:
        """End everything at once."""
        for process in self.processes:
            process.kill()
        self._sender.close()

    def close(self) -> None:
        """The same, but idle processes may end in order."""
        with ThreadPoolExecutor(len(self._replicas)) as pool:
            for process in self.processes:
                pool.submit(process.stop, seconds=_STOP_SECONDS)
        self.kill()

    def _start(self, devices: tuple[int, ...], log_file: Path) -> EngineProcess:
        _give_back_unused_memory()
        start = Frame({"type": "start", "settings": asdict(self._settings.host), "adapter_folder": None})
        return EngineProcess(
            self._command,
            devices=devices,
            log_file=log_file,
            start=start,
            start_timeout_seconds=self._settings.start_timeout_seconds,
        )

    def _renew(self, replica: _Replica) -> None:
        replica.process.kill()
        replica.process = self._start(replica.devices, replica.log_file)
        replica.is_interrupted = False
        replica.num_loads = 0
        replica.asleep = set()

    def _until_it_works(self, action: Callable[[], list[EngineFailure]]) -> None:
        """Do it again, with other processes for those that failed, until none does."""
        while failures := action():
            self.replace(failures)

    def _wait_until_ready(self) -> list[EngineFailure]:
        for replica in self._replicas:
            # Killed as one that was interrupted, or as one that could not go on without another.
            if not replica.process.is_usable and (replica.is_interrupted or replica.has_been_ready):
                self._renew(replica)
        failures: list[EngineFailure] = []
        for replica in self._replicas:
            try:
                replica.process.wait_until_ready()
                replica.has_been_ready = True
            except EngineFailure as failure:
                failures.append(failure)
        return failures

    def _refresh(self) -> list[EngineFailure]:
        """Bring all processes to the current weights."""
        failures = self._wait_until_ready()
        stale = [replica for replica in self._replicas if replica.num_loads != self._num_loads]
        if failures or not stale or self._weights is None:
            return failures
        weights, names = self._weights, tuple(self._changed)
        if self._settings.host.lora_rank is not None:
            weights, names = weights.unmerged(), ()
        if self._settings.host.sleep_level == 2:
            names = tuple(weights)
        if names and self._sender.needs_all_processes:
            stale = self._replicas
        failures = (
            self._wake(stale, ("weights",))
            or self._timed("weight_transfer", lambda: self._send_weights(stale, weights, names))
            or self._timed("weight_transfer", lambda: self._send_adapter(stale))
        )
        if not failures:
            for replica in stale:
                replica.num_loads = self._num_loads
        return failures

    def _send_weights(
        self, replicas: Sequence[_Replica], weights: PlainWeights, names: tuple[str, ...]
    ) -> list[EngineFailure]:
        failures = self._sender.send(
            [replica.process for replica in replicas],
            weights,
            names,
            checkpoint_name=self._checkpoint_name,
            drop=["prefix"] if self._settings.is_vision_frozen else ["prefix", "encoder"],
            deadline=self.deadline(),
        )
        self.figures["weight_transfer_bytes"] += self._sender.num_bytes(weights, names)
        return failures

    def _send_adapter(self, replicas: Sequence[_Replica]) -> list[EngineFailure]:
        if self._settings.host.lora_rank is None:
            return []
        assert self._weights is not None
        with _written_adapter(self._weights) as folder:  # removed at once: whoever is killed leaves nothing in memory
            self.figures["weight_transfer_bytes"] += sum(path.stat().st_size for path in Path(folder).iterdir())
            request = Frame({"type": "adapter", "folder": folder, "version": self._num_loads})
            requests = {replica.process: request for replica in replicas}
            return ask_all(requests, deadline=self.deadline())[1]

    def _wake(self, replicas: Sequence[_Replica], tags: Sequence[str]) -> list[EngineFailure]:
        requests: dict[EngineProcess, Frame] = {}
        for replica in replicas:
            if asleep := [tag for tag in tags if tag in replica.asleep]:
                requests[replica.process] = Frame({"type": "wake", "tags": asleep})
        if not requests:
            return []
        _give_back_unused_memory()
        failures = self._timed("wake", lambda: ask_all(requests, deadline=self.deadline())[1])
        failed = {failure.process for failure in failures}
        for replica in replicas:
            if replica.process not in failed:
                replica.asleep -= set(tags)
        return failures

    def _sleep(self) -> list[EngineFailure]:
        if failures := self._wait_until_ready():
            return failures
        # Weights that were not given to this process could not be sent again.
        level = self._settings.host.sleep_level if self._weights is not None else 1
        awake = [replica for replica in self._replicas if not replica.asleep]
        if not awake:
            return []
        requests: Mapping[EngineProcess, Frame] = dict.fromkeys(
            (replica.process for replica in awake), Frame({"type": "sleep", "level": level})
        )
        failures = self._timed("sleep", lambda: ask_all(requests, deadline=self.deadline())[1])
        failed = {failure.process for failure in failures}
        for replica in awake:
            if replica.process not in failed:
                replica.asleep = set(_TAGS)
                replica.num_loads = None if level == 2 else replica.num_loads
        return failures

    def _timed(self, name: str, action: Callable[[], list[EngineFailure]]) -> list[EngineFailure]:
        began = time.monotonic()
        failures = action()
        self.figures[f"{name}_seconds"] += time.monotonic() - began
        return failures


def _give_back_unused_memory() -> None:
    """An engine on the learner's GPU needs what the learner's allocator keeps for later."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _written_adapter(weights: PlainWeights) -> tempfile.TemporaryDirectory[str]:
    """A folder of our own with the adapter, in memory where there is room."""
    prefix = "sightline_adapter_"
    if SHARED_MEMORY.is_dir():
        try:
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=SHARED_MEMORY, ignore_cleanup_errors=True)
            weights.save_adapter(Path(folder.name))
        except (OSError, SafetensorError):
            pass
        else:
            return folder
    folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    weights.save_adapter(Path(folder.name))
    return folder
