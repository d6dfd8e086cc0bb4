"""Small copies of the published sets, in their layouts and with their defects, for the tests of `prepare`."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.pictures import png

SYSTEM = "Solve the question. The final answer must be wrapped using the \\boxed{} command."
CLUSTER = "/apdcephfs_gy2/share_302735770/berlinni/zgr/data/mathv60k"


def palette_png(color: int = 3) -> bytes:
    """A PNG with a palette, as some of MMK12's are."""
    image = Image.new("P", (30, 40), color)
    image.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def hub_image(data: bytes, path: str = "picture.png") -> dict[str, object]:
    """A picture as `datasets` writes it into parquet."""
    return {"bytes": data, "path": path}


def write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def write_lines(path: Path, rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_zip(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def write_tar_gz(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))


def lmm_r1_row(question: str, answer: str, image: str | None = None) -> dict[str, object]:
    """A row of LMM-R1: the conversation as JSON text in JSON."""
    content: list[object] = [{"type": "text", "text": question}]
    content += [{"type": "image", "image": image}] if image else []
    message = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
    return {"question": question, "answer": answer, "message": json.dumps(message)}


def chat_markup(question: str) -> str:
    """A prompt as Qwen's chat template renders it, ready for the answer."""
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def deepscaler(folder: Path) -> None:
    rows = [lmm_r1_row("What is 2+2?", "$4$"), lmm_r1_row("Half of one?", r"$\boxed{\frac{1}{2}}$")]
    write_lines(folder / "deepscaler_message.jsonl", rows)


def math_levels(folder: Path) -> None:
    rows = [
        {"prompt": chat_markup("What is $3^2$?"), "answer": "$9$", "level": "Level 3"},
        {"prompt": chat_markup("Factor\n$x^2-1$."), "answer": r"$\boxed{(x-1)(x+1)}$", "level": "Level 5"},
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mathlv345_8k_chatml.json").write_text(json.dumps(rows), encoding="utf-8")


def vermulti(folder: Path) -> None:
    rows = [
        lmm_r1_row("Which is it?\nA. cat\nB. dog", r"$\boxed{B}$", f"{CLUSTER}/mathv60k_img/animals/1.png"),
        lmm_r1_row("How many?", r"$\boxed{3}$", f"{CLUSTER}/mathv60k_img/animals/1.png"),
    ]
    write_lines(folder / "mathv60k_message.jsonl", rows)
    write_tar_gz(folder / "mathv60k_img.tar.gz", {"mathv60k_img/animals/1.png": png(color="green")})


def vermulti_geo(folder: Path) -> None:
    rows = [lmm_r1_row("Find angle C.", r"$\boxed{60^{\circ}}$", "data/mathv_geo/mathv_geo_img/7.png")]
    write_lines(folder / "mathv_geo_message.jsonl", rows)
    write_tar_gz(folder / "mathv_geo_img.tar.gz", {"mathv_geo_img/7.png": png(color="blue")})


def open_r1(folder: Path) -> None:
    rows = [
        {
            "image": hub_image(png(color="red")),
            "problem": "How long is AB?",
            "solution": "<think>3*4=12, and 5 is not asked.</think>\n\n<answer>12</answer>",
            "original_question": "Find AB.",
            "original_answer": "12 cm",
        },
        {
            "image": hub_image(png(color="white")),
            "problem": "Which angle is right?\nA. ABC\nB. BCA",
            "solution": "<think>It is the second.</think>\n\n<answer>B</answer>",
            "original_question": "Right angle?",
            "original_answer": "B",
        },
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def skywork(folder: Path) -> None:
    def row(question: str, golds: str, hard: int) -> dict[str, object]:
        return {
            "data_source": "train-math-numinamath1.5_olympiads",
            "prompt": [{"content": question, "role": "user"}],
            "ability": "math",
            "reward_model": {"ground_truth": golds, "style": "rule"},
            "extra_info": {"index": hard, "model_difficulty": {"DeepSeek-R1-Distill-Qwen-7B": hard}},
        }

    rows = [row("What is 9*2?", '["18"]', 3), row("Half of one?", r'["\\frac{1}{2}", "0.5"]', 16)]
    write_parquet(folder / "data" / "math-00000-of-00001.parquet", rows)
    write_parquet(folder / "data" / "code-00000-of-00003.parquet", [{"data_source": "x"}])


def mmk12(folder: Path) -> None:
    rows = [
        {
            "id": "k1",
            "question": "<image>Area?",
            "answer": "78.5",
            "subject": "math",
            "image": hub_image(palette_png()),
        },
        {"id": "k1", "question": "Which?", "answer": "B", "subject": "math", "image": hub_image(palette_png(9))},
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows)


def clevr(folder: Path) -> None:
    def row(color: str, count: int) -> dict[str, object]:
        problem = "How many items are there in the image?"
        return {"image": hub_image(png(color=color)), "problem": problem, "solution": f"<answer> {count} </answer>"}

    write_parquet(folder / "data" / "train-00000-of-00002.parquet", [row("red", 3), row("green", 10)])
    write_parquet(folder / "data" / "train-00001-of-00002.parquet", [row("blue", 4)])


def geoqa(folder: Path) -> None:
    rows = [
        {"image": hub_image(png()), "problem": "Find angle 2.", "solution": "<answer> 145° </answer>"},
        {"image": hub_image(png()), "problem": "How long is AB?", "solution": "<answer> 2√3 </answer>"},
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def geo170k(folder: Path) -> None:
    def row(image: str, question: str, answer: str) -> dict[str, object]:
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        return {"image": image, "conversations": turns}

    rows = [
        row("geoqa_plus/1.png", "Angle B is\nChoices:\nA:145°\nB:130°", "180° - 50° = 130°.\nAnswer:B"),
        row("geo3k/2.png", "How long is the base?", "By Pythagoras it is 10."),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "qa_tuning.json").write_text(json.dumps(rows), encoding="utf-8")
    members = {"images/geoqa_plus/1.png": png(color="red"), "images/geo3k/2.png": png(color="blue")}
    write_zip(folder / "images.zip", members)


def geometry3k(folder: Path) -> None:
    rows = [{"images": [hub_image(png())], "problem": "<image>Find x.", "answer": r"2 \sqrt { 221 }"}]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows)


def expression_row(image: str, caption: str, box: Sequence[float]) -> dict[str, object]:
    """A referring expression as VLM-R1 prepares RefCOCO."""
    return {
        "image": image,
        "problem": f"Please provide the bounding box coordinate of the region this sentence describes: {caption}.",
        "solution": list(box),
        "normalized_solution": [100, 200, 500, 800],
        "normal_caption": caption,
    }


def _boxes(file: str, image: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        rows = [
            {**expression_row(image, "the lady in blue", [10.5, 20, 50, 80.25]), "id": 1719310, "area": 600.5},
            {**expression_row(image, "woman on the left", [10.5, 20, 50, 80.25]), "id": 1719310, "area": 600.5},
        ]
        members = {f"rec_jsons_processed/{file}": json.dumps(rows).encode()}
        members["rec_jsons_processed/refcoco_val.json"] = b"[]"
        members[f"__MACOSX/rec_jsons_processed/{file}"] = b"\0"
        write_zip(folder / "rec_jsons_processed.zip", members)

    return write


COCO_IMAGE = "train2014/COCO_train2014_000000581857.jpg"


def coco(path: Path) -> None:
    """COCO's archive of pictures."""
    write_zip(path, {COCO_IMAGE: png(100, 100)})


def refgta(folder: Path) -> None:
    _boxes("refgta_subsample.json", "refgta/12.png")(folder)
    write_zip(folder / "refgta.zip", {"refgta/12.png": png(100, 100), "refgta/13.png": png()})


WRITERS: dict[str, Callable[[Path], None]] = {
    "deepscaler-40k": deepscaler,
    "math-lv3-5": math_levels,
    "vermulti": vermulti,
    "vermulti-geo": vermulti_geo,
    "multimodal-open-r1-8k": open_r1,
    "skywork-or1-math": skywork,
    "mmk12": mmk12,
    "clevr-70k-counting": clevr,
    "geoqa-8k": geoqa,
    "geo170k": geo170k,
    "geometry3k": geometry3k,
    "refcoco": _boxes("refcoco_train.json", COCO_IMAGE),
    "refcoco-plus": _boxes("refcocop_train.json", COCO_IMAGE),
    "refcocog": _boxes("refcocog_train.json", COCO_IMAGE),
    "refgta": refgta,
}
