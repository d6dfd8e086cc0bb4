"""Answers the trainer's messages with one vLLM engine; `sightline/rollout/vllm_engine.py` is the other end."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import vllm
from vllm import LLM
from vllm.lora.request import LoRARequest

from sightline.rollout.engine_settings import HostSettings
from sightline.rollout.frames import Frame, FrameError, FramePipe
from sightline.rollout.vllm_host.failure import REFUSALS, HostError, first_line
from sightline.rollout.vllm_host.generation import Generation, Order
from sightline.rollout.vllm_host.loading import device_name, load, settings_from
from sightline.rollout.vllm_host.pictures import Pictures

_OK = Frame({"type": "ok"})


def serve(pipe: FramePipe) -> None:
    """Load the model, then answer until the parent says stop. Raises FrameError if it goes without a word."""
    start = pipe.receive()
    assert start.type == "start", "the parent's first message"
    try:
        settings = settings_from(start.head["settings"])
        host = Host(pipe, settings, load(settings))
        if start.head["adapter_folder"] is not None:
            host.take_adapter(start.head["adapter_folder"])
    except HostError as error:
        pipe.send(_error(str(error), is_final=error.is_final))
        return
    pipe.send(Frame({"type": "ready", "vllm": vllm.__version__, "device": device_name()}))
    while (frame := pipe.receive()).type != "stop":
        pipe.send(_reply(host, frame))
    host.close()


def _reply(host: "Host", frame: Frame) -> Frame:
    """The one final answer to a request, whatever happens."""
    try:
        return host.answer(frame)
    except FrameError:
        raise
    except HostError as error:
        return _error(str(error), is_final=error.is_final)
    except Exception as error:  # noqa: BLE001 (vLLM raises of all kinds; the parent starts another engine)
        return _error(f"vLLM failed at {frame.type}: {first_line(error)}", is_final=False)


def _error(message: str, *, is_final: bool) -> Frame:
    return Frame({"type": "error", "message": message, "is_final": is_final})


class Host:
    """The engine, the pictures it was sent, and the adapter it answers with."""

    def __init__(self, pipe: FramePipe, settings: HostSettings, llm: LLM) -> None:
        self._pipe = pipe
        self._settings = settings
        self._llm = llm
        self._engine: Any = llm.llm_engine
        self._pictures = Pictures()
        self._adapter: LoRARequest | None = None
        self._num_adapters = 0
        self._answers: Mapping[str, Callable[[Frame], Frame]] = {
            "open_transfer": self._open_transfer,
            "load_begin": self._load_begin,
            "load_part": self._load_part,
            "load_end": self._load_end,
            "adapter": self._load_adapter,
            "generate": self._generate,
            "sleep": self._sleep,
            "wake": self._wake,
        }

    def answer(self, frame: Frame) -> Frame:
        """Do what a message asks; its final reply. Raises HostError, and whatever vLLM raises."""
        if frame.type not in self._answers:
            raise HostError(f"the engine's process does not know the message {frame.type!r}", is_final=True)
        return self._answers[frame.type](frame)

    def close(self) -> None:
        """End the engine and its workers."""
        self._engine.engine_core.shutdown()

    def take_adapter(self, folder: str) -> None:
        """Answer with the adapter in this folder from now on. Raises HostError if vLLM doesn't take it."""
        if self._adapter is not None:
            self._engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None
        self._num_adapters += 1
        adapter = LoRARequest(f"sightline {self._num_adapters}", self._num_adapters, folder)
        try:
            self._engine.add_lora(adapter)
        except (*REFUSALS, OSError) as error:
            raise HostError(
                f"vLLM does not take the adapter in {folder}: {first_line(error)}", is_final=True
            ) from error
        self._adapter = adapter
        self._drop_prefixes()

    def _open_transfer(self, frame: Frame) -> Frame:
        self._ask_workers("init_weight_transfer_engine", init_info={"head": dict(frame.head)})
        return _OK

    def _load_begin(self, frame: Frame) -> Frame:
        del frame
        self._ask_workers("start_weight_update")
        return _OK

    def _load_part(self, frame: Frame) -> Frame:
        part = {key: frame.head[key] for key in ("names", "dtypes", "shapes", "offsets")}
        try:
            self._ask_workers("update_weights", update_info=part)
        except (*REFUSALS, KeyError, AttributeError) as error:
            names = part["names"]
            raise HostError(
                f"vLLM {vllm.__version__} does not take the learner's weights ({names[0]} to {names[-1]}): "
                f"{first_line(error)}",
                is_final=True,
            ) from error
        return _OK

    def _load_end(self, frame: Frame) -> Frame:
        self._ask_workers("finish_weight_update")
        if "prefix" in frame.head["drop"]:
            self._drop_prefixes()
        if "encoder" in frame.head["drop"]:
            self._engine.reset_encoder_cache()
        return _OK

    def _load_adapter(self, frame: Frame) -> Frame:
        self.take_adapter(frame.head["folder"])
        return _OK

    def _generate(self, frame: Frame) -> Frame:
        began = time.monotonic()
        order = Order.from_frame(frame)
        generation = Generation(
            self._llm, self._settings, order, pictures=self._pictures, adapter=self._adapter, pipe=self._pipe
        )
        num_tokens = generation.run()
        return Frame({"type": "done", "num_tokens": num_tokens, "seconds": time.monotonic() - began})

    def _sleep(self, frame: Frame) -> Frame:
        if device_name() == "cpu":
            return Frame({"type": "ok", "bytes": 0})
        before = self._free_bytes()
        self._llm.sleep(frame.head["level"])
        return Frame({"type": "ok", "bytes": max(0, self._free_bytes() - before)})

    def _wake(self, frame: Frame) -> Frame:
        if device_name() != "cpu":
            self._llm.wake_up(frame.head["tags"])
        return _OK

    def _free_bytes(self) -> int:
        return sum(self._ask_workers("sightline_free_bytes"))

    def _drop_prefixes(self) -> None:
        if not self._engine.reset_prefix_cache():
            raise HostError("vLLM kept keys and values of former weights: requests were left over", is_final=False)

    def _ask_workers(self, method: str, **arguments: object) -> list[Any]:
        return self._llm.collective_rpc(method, kwargs=arguments)
