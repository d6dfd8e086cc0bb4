"""Rows of every format in the shape in which its project publishes it; pictures are names or a few bytes."""

import json
from collections.abc import Mapping
from pathlib import Path

from sightline.data.rows import Columns

GOLDEN_ROWS = Path(__file__).parents[1] / "golden_rows"


def golden_rows(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (GOLDEN_ROWS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


PNG = b"\x89PNG\r\n\x1a\n picture"
STRUCT = {"bytes": PNG, "path": None}  # as datasets writes a picture into parquet

OWN = {
    "id": "cats-1",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many <image> tags?"}]},
    ],
    "images": ["cats.images/ab.png"],
    "answers": ["1", "one"],
    "answer_kind": "number",
    "solution": "<think>One.</think>\n<answer>1</answer>",
    "source": "cats",
    "metadata": {"level": 3, "tags": ["a"]},
}
OWN_PARQUET = {
    **OWN,
    "messages": [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Which?"}]},
    ],
    "images": [{"bytes": PNG, "path": "ab.png"}],
    "answers": ["B"],
    "answer_kind": None,
    "choices": ["red", "blue"],
    "solution": None,
    "metadata": '{"level": 3}',
}
SIMPLE = {"problem": "How many?", "answer": 3, "image": "one.png", "solution": "It is 3.", "id": 7, "source": "cats"}
EASY_R1 = {"images": [STRUCT], "problem": "<image>Find x.", "answer": "2 \\sqrt { 221 }"}
MATH_VISION = {
    "id": "4",
    "problem": "Which bike?\n<image>",
    "image": "images/4.jpg",
    "options": ["red", "blue", "green"],
    "answer": "B",
    "level": 2,
}
LMM_R1, LMM_R1_CHOICE = golden_rows("lmm_r1")
SOKOBAN = golden_rows("sokoban")[0]
OPEN_RLHF = {
    "prompt": [{"role": "user", "content": "<image>\nFind x."}],
    "images": [STRUCT],
    "label": "$\\frac{1}{2}$",
    "datasource": "geometry3k",
}
OPEN_RLHF_TEXT = {"input": "What is 2 + 2?", "label": "4"}
OPENAI = {
    "messages": [
        {"role": "developer", "content": "Think."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "How many cats?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            ],
        },
        {"role": "assistant", "content": "<think>One, two.</think><answer>2</answer>"},
    ],
    "seed": 4,
}
OPENAI_BESIDE = {"messages": [{"role": "user", "content": "2 + 2?"}], "ground_truth": "$4$", "images": None}
OPEN_R1_MULTIMODAL = {
    "image": STRUCT,
    "problem": "Based on the image, how many cones are there?",
    "solution": "<think>I see a cone. And another.</think>\n\n<answer>2</answer>",
    "original_question": "How many cones?",
    "original_answer": "2",
}
R1_V = {"image": STRUCT, "problem": "How many items are there in the image?", "solution": " <answer> 3 </answer>"}
GEOQA_8K = {"image": STRUCT, "problem": "Find angle A.", "solution": "<answer> 145° </answer>"}
VLM_R1 = golden_rows("vlm_r1")[0]
VLM_R1_METHOD = {
    "id": 9,
    "image": "Geo170K/images/1.png",
    "conversations": [
        {"from": "human", "value": "<image>Which is red?\nA. the cat\nB. the dog"},
        {"from": "gpt", "value": "B"},
    ],
    "accu_reward_method": "mcq",
}
VLM_R1_BOXES = {
    "id": 10,
    "image": "coco/1.jpg",
    "conversations": [
        {"from": "human", "value": "<image>Detect all cats."},
        {"from": "gpt", "value": '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}]\n```'},
    ],
    "accu_reward_method": "odLength",
}
LLAVA = {
    "id": "000000033471",
    "image": "coco/train2017/000000033471.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat are the colors of the bus?"},
        {"from": "gpt", "value": "The bus is white and red."},
        {"from": "human", "value": "What feature can be seen on the back of the bus?"},
        {"from": "gpt", "value": "An advertisement."},
    ],
}
REC = {
    "image": "train2014/COCO_train2014_000000581857.jpg",
    "problem": "Please provide the bounding box of: the large white vehicle.",
    "solution": [352.14, 33.94, 639.59, 224.86],
    "normalized_solution": [550, 71, 999, 468],
    "normal_caption": "the large white vehicle",
}
MAIR_HUB = {
    "data_source": "FanqingM/MMK12",
    "prompt": [{"content": "<image>\nFind x. You first think about the reasoning process", "role": "user"}],
    "images": [STRUCT],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "11"},
    "extra_info": {"split": "train", "index": 1, "answer": "11", "question": "<image>Find x."},
}
SKYWORK = {
    "data_source": "train-math-numinamath1.5_olympiads",
    "prompt": [{"content": "Solve x^2 = 4.", "role": "user"}],
    "ability": "math",
    "reward_model": {"ground_truth": '["2", "-2", "\\\\pm 2"]', "style": "rule"},
    "extra_info": {"index": 12, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-1.5B": 3, "32B": 1}},
}
SUPERCLEVR = golden_rows("superclevr")
GEOQA_TEST = golden_rows("geoqa")
TRL = {
    "prompt": [
        {"role": "system", "content": [{"type": "text", "text": "Reason."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many cones?"}]},
    ],
    "image": STRUCT,
    "solution": "<think>Two.</think>\n<answer>2</answer>",
    "original_answer": "2",
}
TRL_PLAIN = {"prompt": "How many?", "images": [STRUCT], "answer": 3}
TRL_COMPLETION = {
    "prompt": [{"role": "user", "content": "2 + 2?"}],
    "completion": [{"role": "assistant", "content": "It is \\boxed{4}."}],
}

ROWS: Mapping[str, tuple[Columns, ...]] = {
    "sightline": (OWN, OWN_PARQUET),
    "problem_answer": (SIMPLE, EASY_R1, MATH_VISION, {"problem": "Describe it.", "image": "a.png"}),
    "lmm_r1": (LMM_R1, LMM_R1_CHOICE, SOKOBAN, OPEN_RLHF, OPEN_RLHF_TEXT),
    "openai": (OPENAI, OPENAI_BESIDE),
    "r1v": (OPEN_R1_MULTIMODAL, R1_V, GEOQA_8K),
    "conversations": (VLM_R1, VLM_R1_METHOD, VLM_R1_BOXES, LLAVA),
    "rec": (REC,),
    "verl": (MAIR_HUB, SKYWORK),
    "r1v_eval": (*SUPERCLEVR, *GEOQA_TEST),
    "trl": (TRL, TRL_PLAIN, TRL_COMPLETION),
}
ALL_ROWS = [(name, row) for name, rows in ROWS.items() for row in rows]
