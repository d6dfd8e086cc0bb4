"""From a file of 100,000 rows to the first batch: Sightline beside `datasets` doing the same the usual way.

    python benchmarks/data_loading.py --out data_loading.json

The rows ask about 2,000 pictures, which the script writes first. Each system does the same in a process of its own:
read the rows; leave out prompts that are too long, which takes the text's tokens and each picture's by arithmetic on
its size; draw 64 in shuffled order and preprocess their pictures. Both must keep the same rows with the same lengths.
Sightline's index also finds every picture, hashes it and reads its header, and checks every answer; that of `datasets`
copies the rows into its cache.
For people who count with the processor on decoded pictures, some rows are counted that way and the time extrapolated.
The second table is the memory that 64 prompts and their pictures take in groups of 1, 8 and 64 answers.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from sightline.types import Prompt, ScoredRollout

WORDS = (
    "how",
    "many",
    "red",
    "dots",
    "are",
    "in",
    "the",
    "picture",
    "which",
    "colour",
    "is",
    "left",
    "above",
    "larger",
)
BATCH_SIZE = 64
MAX_PROMPT_TOKENS = 512
LONG_ROWS = 100  # one in so many has a question beyond that
GROUP_SIZES = (1, 8, 64)
COLUMNS = ("system", "index, rows/s", "length filter, rows/s", "first batch, s", "total, s", "before, GiB", "peak, GiB")
QUIET_LOAD = 0.3  # processes that wait for a core; more would disturb the clock
GIB, MIB = 2**30, 2**20

Result = dict[str, Any]  # what one process prints


def main() -> None:
    """Write the data, run each system in a process of its own, print the tables, write the JSON."""
    options = _parse()
    if options.system:
        print(json.dumps(SYSTEMS[options.system](options)))
        return
    load = os.getloadavg()[0]
    if load > QUIET_LOAD:
        _tell(f"warning: the load is {load:.2f}; times will be too long")
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        options.folder = Path(name)
        _write_data(options)
        sightline = _run(options, "sightline")
        others = [_run(options, "datasets", "--processes", str(number)) for number in sorted({1, options.processes})]
        decoding = _run(options, "decoding")
        groups = [_run(options, "group", "--group-size", str(size)) for size in GROUP_SIZES]
    for other in others:
        _check_same_rows(sightline, other)
    assert sightline["first_lengths"][: decoding["num_rows"]] == decoding["first_lengths"], "the processor disagrees"
    _print_tables(options, [sightline, *others], decoding, groups)
    for each in (sightline, *others, decoding):
        del each["first_lengths"]
    content = {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "load_before": load},
        "python": platform.python_version(),
        "work": {"rows": options.rows, "pictures": options.pictures, "batch_size": BATCH_SIZE},
        "systems": [sightline, *others],
        "decoding": decoding,
        "groups": groups,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=2_000, help="distinct ones, about 448 x 336 pixels")
    parser.add_argument("--decoded-rows", type=int, default=500, help="rows counted by the processor on pictures")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="of `datasets`, beside a run with one")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the data; None: the system's")
    parser.add_argument("--out", type=Path, default=Path("data_loading.json"))
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)  # what a process of the benchmark does
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--group-size", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rows < BATCH_SIZE or options.pictures < 1 or options.processes < 1 or options.decoded_rows < 1:
        parser.error(f"--rows must be at least {BATCH_SIZE}; --pictures, --processes and --decoded-rows at least 1")
    return options


def _write_data(options: argparse.Namespace) -> None:
    """A tiny Qwen2.5-VL, smooth colour fields as PNG and JPEG, and rows.jsonl with absolute paths."""
    from sightline.models.tiny import write_tiny_model

    folder, chance = options.folder, random.Random(0)
    write_tiny_model("qwen2_5_vl", folder / "model")
    paths: list[str] = []
    for number in range(options.pictures):
        path = folder / f"{number}.{('png', 'jpg')[number % 2]}"
        size = (448 + chance.randint(-56, 56), 336 + chance.randint(-56, 56))
        colours = Image.frombytes("RGB", (8, 8), chance.randbytes(8 * 8 * 3))
        colours.resize(size, Image.Resampling.BICUBIC).save(path)
        paths.append(str(path))
    with (folder / "rows.jsonl").open("w") as lines:
        for number in range(options.rows):
            num_words = 600 if number % LONG_ROWS == LONG_ROWS - 1 else chance.randint(10, 26)
            question = " ".join(chance.choices(WORDS, k=num_words)) + "?"
            row = {"id": str(number), "problem": question, "answer": "3", "image": chance.choice(paths)}
            lines.write(json.dumps(row) + "\n")


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _load_with_sightline(options: argparse.Namespace) -> Result:
    from sightline import prompts
    from sightline.data import DataConfig, LoadedData
    from sightline.images import ImageStore
    from sightline.models.config import ModelConfig

    clock, load_problems = _Clock(), prompts.load_problems
    inputs = prompts.load_inputs(ModelConfig(path=str(options.folder / "model")))
    before = _resident_bytes()

    def load_and_time(config: DataConfig, images: ImageStore) -> LoadedData:
        with clock.phase("index"):
            return load_problems(config, images)

    prompts.load_problems = load_and_time
    config = DataConfig(
        path=str(options.folder / "rows.jsonl"), verify_images="header", max_prompt_tokens=MAX_PROMPT_TOKENS
    )
    with clock.phase("index and filter"):
        problems = prompts.load_prompts(inputs, config, max_response_tokens=1024)
    clock.seconds["filter"] = clock.seconds.pop("index and filter") - clock.seconds["index"]
    with clock.phase("first_batch"):
        order = problems.order(config, 0, batch_size=BATCH_SIZE)
        batch = [problems[index] for index in order.take(0, BATCH_SIZE)]
        images = [image for prompt in batch for image in prompt.images]
        inputs.image_inputs.prefetch(images)
        pixels = [inputs.image_inputs.get(image).tensors["pixel_values"] for image in images]
    assert len(batch) == len(pixels) == BATCH_SIZE
    return {
        "system": "Sightline",
        "seconds": clock.seconds,
        "before_bytes": before,
        "peak_bytes": _peak_bytes(resource.RUSAGE_SELF),
        "num_kept": len(problems),
        "num_tokens": int(problems.lengths_P.sum()),
        "first_lengths": problems.lengths_P[: options.decoded_rows].tolist(),
    }


def _load_with_datasets(options: argparse.Namespace) -> Result:
    """Count in `map` by batches with the processor's own arithmetic; sizes from the pictures' headers."""
    import datasets
    from transformers import AutoProcessor

    clock, processor = _Clock(), AutoProcessor.from_pretrained(options.folder / "model")
    datasets.disable_progress_bars()
    before = _resident_bytes()

    def count(rows: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
        texts = processor.apply_chat_template([_conversation(text) for text in rows["problem"]], **_TEMPLATE)
        lengths = [len(ids) for ids in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        sizes = [Image.open(path).size for path in rows["image"]]
        patches = [processor.image_processor.get_number_of_image_patches(size[1], size[0], {}) for size in sizes]
        merge = processor.image_processor.merge_size**2
        return {"num_tokens": [a - 1 + b // merge for a, b in zip(lengths, patches, strict=True)]}

    def is_short(num_tokens: int) -> bool:
        return num_tokens <= MAX_PROMPT_TOKENS

    num_proc = options.processes if options.processes > 1 else None
    with clock.phase("index"):
        data = _read_rows(options)
    with clock.phase("filter"):
        data = data.map(count, batched=True, num_proc=num_proc)
        data = data.filter(is_short, input_columns="num_tokens", num_proc=num_proc)
    with clock.phase("first_batch"):
        rows = data.shuffle(seed=0).select(range(BATCH_SIZE)).cast_column("image", datasets.Image())[:]
        texts = processor.apply_chat_template([_conversation(text) for text in rows["problem"]], **_TEMPLATE)
        batch = processor(text=texts, images=rows["image"], padding=True, return_tensors="pt")
    assert len(batch["input_ids"]) == len(batch["image_grid_thw"]) == BATCH_SIZE
    return {
        "system": "datasets" if num_proc is None else f"datasets, {num_proc} processes",
        "seconds": clock.seconds,
        "before_bytes": before,
        "peak_bytes": _peak_bytes(resource.RUSAGE_SELF),
        "peak_worker_bytes": 0 if num_proc is None else _peak_bytes(resource.RUSAGE_CHILDREN),
        "num_kept": len(data),
        "num_tokens": sum(data["num_tokens"]),
        "first_lengths": data[: options.decoded_rows]["num_tokens"],
    }


def _count_by_decoding(options: argparse.Namespace) -> Result:
    """Count some rows as many scripts do: the processor on each row's text and decoded picture."""
    import datasets
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(options.folder / "model")
    datasets.disable_progress_bars()
    data = _read_rows(options).cast_column("image", datasets.Image())
    lengths: list[int] = []

    def fits(row: Mapping[str, Any]) -> bool:
        text = processor.apply_chat_template(_conversation(row["problem"]), **_TEMPLATE)
        lengths.append(len(processor(text=[text], images=[row["image"]])["input_ids"][0]))
        return lengths[-1] <= MAX_PROMPT_TOKENS

    started = time.perf_counter()
    num_rows = min(options.decoded_rows, len(data))
    kept = data.select(range(num_rows)).filter(fits)
    seconds = time.perf_counter() - started
    return {
        "num_rows": len(kept),
        "rows_per_second": num_rows / seconds,
        "extrapolated_seconds": seconds * options.rows / num_rows,
        "first_lengths": [length for length in lengths if length <= MAX_PROMPT_TOKENS],
    }


def _hold_groups(options: argparse.Namespace) -> Result:
    """What one step's prompts and preprocessed pictures take, with so many answers to each; answers are one token."""
    from sightline.batch import make_train_batch
    from sightline.data import DataConfig
    from sightline.models.config import ModelConfig
    from sightline.prompts import load_inputs, load_prompts

    inputs = load_inputs(ModelConfig(path=str(options.folder / "model")))
    config = DataConfig(path=str(options.folder / "rows.jsonl"), rows=f"first:{BATCH_SIZE}", verify_images="header")
    problems = load_prompts(inputs, config, max_response_tokens=1024)
    before = _resident_bytes()
    groups = [[_short_answer(prompt, index) for index in range(options.group_size)] for prompt in problems]
    batch = make_train_batch(groups, max_response_tokens=1, component_weights={})
    pictures = [
        inputs.image_inputs.get(image) for group in groups for answer in group for image in answer.rollout.prompt.images
    ]
    return {
        "group_size": options.group_size,
        "num_answers": len(batch.rewards_B),
        "num_picture_uses": len(pictures),
        "picture_bytes": sum(each.num_bytes for each in {id(each): each for each in pictures}.values()),
        "growth_bytes": _resident_bytes() - before,
    }


def _short_answer(prompt: "Prompt", index: int) -> "ScoredRollout":
    from sightline.types import Rollout, ScoredRollout

    rollout = Rollout(
        prompt=prompt,
        index=index,
        token_ids=(1,),
        logprobs=(0.0,),
        response_mask=(True,),
        text="",
        finish_reason="stop",
        policy_version=0,
    )
    return ScoredRollout(rollout=rollout, rewards={}, reward=0.0, extracted_answer=None, is_correct=False)


SYSTEMS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "sightline": _load_with_sightline,
    "datasets": _load_with_datasets,
    "decoding": _count_by_decoding,
    "group": _hold_groups,
}
_TEMPLATE = {"add_generation_prompt": True, "tokenize": False}


def _conversation(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def _read_rows(options: argparse.Namespace) -> Any:
    import datasets

    return datasets.load_dataset(
        "json",
        data_files=str(options.folder / "rows.jsonl"),
        split="train",
        cache_dir=str(options.folder / f"cache_{os.getpid()}"),  # each process reads the file itself
    )


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak_bytes(who: int) -> int:
    """Most resident memory of this process, or of the largest of its children."""
    return resource.getrusage(who).ru_maxrss * 1024


def _run(options: argparse.Namespace, system: str, *more: str) -> Result:
    environment = os.environ | {
        "TOKENIZERS_PARALLELISM": "true" if system == "datasets" else "false",  # as `sightline` sets it
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(options.folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    numbers = ["--rows", str(options.rows), "--decoded-rows", str(options.decoded_rows)]
    command = [sys.executable, __file__, "--system", system, "--folder", str(options.folder), *numbers, *more]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{system} ended with code {finished.returncode}:\n{finished.stderr[-4000:]}")
    result = json.loads(finished.stdout.splitlines()[-1])
    _tell(f"{' '.join([system, *more])}: {json.dumps(result.get('seconds', {}))}")
    return result


def _check_same_rows(ours: Result, theirs: Result) -> None:
    for name in ("num_kept", "num_tokens", "first_lengths"):
        assert ours[name] == theirs[name], f"{name} is {ours[name]} in Sightline, {theirs[name]} in {theirs['system']}"


def _print_tables(
    options: argparse.Namespace, systems: Sequence[Result], decoding: Result, groups: Sequence[Result]
) -> None:
    """Markdown, so that they can be copied into a document."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for each in systems:
        seconds, workers = each["seconds"], each.get("peak_worker_bytes")
        cells = [
            each["system"],
            f"{options.rows / seconds['index']:,.0f}",
            f"{options.rows / seconds['filter']:,.0f}",
            f"{seconds['first_batch']:.2f}",
            f"{sum(seconds.values()):.1f}",
            f"{each['before_bytes'] / GIB:.2f}",
            f"{each['peak_bytes'] / GIB:.2f}" + (f" + {workers / GIB:.2f} each" if workers else ""),
        ]
        print(f"| {' | '.join(cells)} |")
    print(
        f"\nThe processor on decoded pictures counts {decoding['rows_per_second']:,.0f} rows/s, so "
        f"{options.rows:,} rows in {decoding['extrapolated_seconds']:,.0f} s (extrapolated).\n"
    )
    print("| answers to a prompt | answers | pictures, MiB | growth of the process, MiB |\n|---|---|---|---|")
    for each in groups:
        sizes = [f"{each[name] / MIB:.0f}" for name in ("picture_bytes", "growth_bytes")]
        print(f"| {' | '.join([str(each['group_size']), str(each['num_answers']), *sizes])} |")


def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
