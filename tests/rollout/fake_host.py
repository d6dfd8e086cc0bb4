"""Stands in for a vLLM process: speaks its frames, keeps a journal of what it was asked, and fails where it is told.

Run as `fake_host.py SCRIPT READ_FD WRITE_FD PARENT_PID`. The script is JSON: "journal", a folder; "tokens", ids that
answers are made of; "end", the id that ends them; "faults", by "NAME:NUMBER", where NAME is the process's
CUDA_VISIBLE_DEVICES and NUMBER counts the processes of that name from 1: {"at": message type, "do": what,
"after": groups that are sent before, in a `generate`}.
"""

import ctypes
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sightline.rollout.frames import Frame, FrameError, FramePipe

OK = Frame({"type": "ok"})


class Host:
    """What the process knows."""

    def __init__(self, script: dict[str, Any], pipe: FramePipe) -> None:
        self.script = script
        self.pipe = pipe
        self.journal = Path(script["journal"])
        self.name = os.environ["CUDA_VISIBLE_DEVICES"]
        number = 1
        while True:
            self.path = self.journal / f"{self.name}:{number}.jsonl"
            try:
                self.path.touch(exist_ok=False)
                break
            except FileExistsError:
                number += 1
        self.fault = script["faults"].get(f"{self.name}:{number}", {})
        self.pictures: set[str] = set()
        self.receive: Any = None  # the first bytes of the bucket
        self.weights: dict[str, Any] = {}

    def run(self) -> None:
        while True:
            frame = self.pipe.receive()
            self.note(frame.head)
            if frame.type == self.fault.get("at") and frame.type != "generate":
                self.fail(self.fault["do"])
            if frame.type == "stop":
                time.sleep(self.script.get("stop_seconds", 0))
                self.note({"type": "end"})
                return
            self.answer(frame)

    def note(self, head: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"pid": os.getpid(), **head}) + "\n")

    def fail(self, what: str) -> None:
        match what:
            case "die":
                trace = "Traceback (most recent call last):\n  File ...\nRuntimeError: no room left\nbye\n"
                os.write(2, trace.encode())
                os._exit(3)
            case "killed":
                os.write(2, b"all is well\n")
                os.kill(os.getpid(), signal.SIGKILL)
            case "leave child":  # which holds the pipe and would live on
                child = subprocess.Popen(["sleep", "600"], close_fds=False)
                self.note({"type": "child", "child": child.pid})
                os._exit(4)
            case "hang":
                time.sleep(600)
            case "hang after output":
                self.pipe.send(Frame({"type": "progress", "num_tokens": 1}))
                time.sleep(600)
            case "error":
                self.pipe.send(Frame({"type": "error", "message": "cache\nlost", "is_final": False}))
                time.sleep(600)
            case "refuse":
                self.pipe.send(Frame({"type": "error", "message": "prompt 3 has other tokens", "is_final": True}))
                self.run()
                os._exit(0)
            case "nonsense":
                os.write(int(sys.argv[3]), b"hello\n")
                time.sleep(600)
            case "unknown":
                self.pipe.send(Frame({"type": "surprise"}))
                time.sleep(600)
            case _:
                raise ValueError(what)

    def answer(self, frame: Frame) -> None:
        match frame.type:
            case "start":
                self.pipe.send(Frame({"type": "ready", "vllm": "fake", "device": "cpu"}))
            case "generate":
                self.generate(frame)
            case "open_transfer":
                self.open(frame.head)
                self.pipe.send(OK)
            case "load_part":
                self.load(frame.head)
                self.pipe.send(OK)
            case "load_end":
                np.savez(self.path.with_suffix(".npz"), **self.weights)
                self.pipe.send(OK)
            case "adapter":
                folder = Path(frame.head["folder"])
                sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
                self.note({"type": "adapter_files", "sizes": sizes, "mode": folder.stat().st_mode & 0o777})
                self.pipe.send(OK)
            case _:
                self.pipe.send(OK)

    def open(self, head: Any) -> None:
        if head["kind"] == "shared_memory":
            with open(f"/dev/shm/{head['name']}", "r+b") as file:
                memory = np.frombuffer(mmap.mmap(file.fileno(), head["num_bytes"]), np.uint8)
            self.receive = lambda num_bytes: memory[:num_bytes]
            return
        import torch

        from sightline.rollout.vllm_host.buckets import open_bucket

        bucket = open_bucket(head, device=torch.device("cpu"), worker=0)
        self.receive = lambda num_bytes: bucket.receive(num_bytes).numpy()

    def load(self, head: Any) -> None:
        rows = list(zip(head["names"], head["dtypes"], head["shapes"], head["offsets"], strict=True))
        sizes = [int(np.prod(shape)) * {"float32": 4, "bfloat16": 2}[dtype] for _, dtype, shape, _ in rows]
        memory = self.receive(max(row[3] + size for row, size in zip(rows, sizes, strict=True)))
        for (name, _, _, offset), size in zip(rows, sizes, strict=True):
            assert offset % 16 == 0
            self.weights[name] = memory[offset : offset + size].copy()

    def generate(self, frame: Frame) -> None:
        fault = self.fault if self.fault.get("at") == "generate" else {}
        missing = sorted({digest for digests in frame.head["images"] for digest in digests} - self.pictures)
        if missing:
            self.pipe.send(Frame({"type": "need", "digests": missing}))
            sent = self.pipe.receive()
            assert sent.head == {"type": "pictures", "digests": missing}
            shapes = [list(sent.arrays[str(number)].shape) for number in range(len(missing))]
            sums = [int(sent.arrays[str(number)].astype(np.int64).sum()) for number in range(len(missing))]
            self.note({"type": "pictures", "digests": missing, "shapes": shapes, "sums": sums})
            self.pictures |= set(missing)
        self.note({name: array.tolist() for name, array in frame.arrays.items()} | {"type": "arrays"})
        seeds = frame.arrays["seeds"].tolist()
        for number in reversed(range(len(seeds))):  # out of order, as groups end
            if fault and len(seeds) - 1 - number == fault.get("after", 0):
                if fault["do"] == "partial":
                    break
                if fault["do"] in ("die", "killed", "leave child", "hang", "error", "refuse", "nonsense", "unknown"):
                    self.fail(fault["do"])
                self.send_group(frame, number, seeds[number], fault["do"])
                continue
            self.send_group(frame, number, seeds[number], "")
            self.pipe.send(Frame({"type": "progress", "num_tokens": 7}))
            time.sleep(self.script.get("group_seconds", 0))
        self.pipe.send(Frame({"type": "done", "num_tokens": 7, "seconds": 0.1}))

    def send_group(self, frame: Frame, number: int, seed: int, lie: str) -> None:
        answers, finish = [], []
        for index in range(frame.head["group_size"]):
            drawn = random.Random(seed + index)
            length = drawn.randint(1, frame.head["max_tokens"])
            ids = [drawn.choice(self.script["tokens"]) for _ in range(length)]
            is_whole = drawn.random() < 0.7
            answers.append([*ids[:-1], self.script["end"]] if is_whole else ids)
            finish.append("stop" if is_whole else "length")
        ids = np.array([token for answer in answers for token in answer], np.int32)
        lengths = np.array([len(answer) for answer in answers], np.int32)
        logprobs = -0.25 * np.arange(len(ids), dtype=np.float32)
        if lie == "forbidden":
            ids[0] = self.script["forbidden"]
        if lie == "other prompt":
            number = 1000
        group = Frame(
            {"type": "group", "prompt": number, "finish": finish},
            {"token_ids": ids, "logprobs": logprobs, "lengths": lengths},
        )
        self.pipe.send(group)
        if lie == "twice":
            self.pipe.send(group)


def main() -> None:
    script = json.loads(Path(sys.argv[1]).read_text())
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[4]):
        sys.exit("the parent ended")
    try:
        Host(script, FramePipe(int(sys.argv[2]), int(sys.argv[3]))).run()
    except FrameError:
        sys.exit("the parent is gone")


if __name__ == "__main__":
    main()
