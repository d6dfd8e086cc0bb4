"""Prepared sets of referring expressions: VLM-R1's and R1-MLLM's."""

from sightline.curation.prepared.prepared_set import NumRows, Pictures, PreparedSet
from sightline.curation.prepared.prompts import BOXES
from sightline.data.config import SourceConfig

_HUB_ID = "omlab/VLM-R1"
_ARCHIVE = "rec_jsons_processed.zip"
_COLUMNS = ("image", "problem", "solution", "normalized_solution", "normal_caption")
_MORE_COLUMNS = ("bbox_list", "area", "category_id", "image_id", "original_id", "iscrowd", "width", "height")
_SOURCE = SourceConfig(format="rec", answer_kind="box")
_WHY = "published size of the split; the three add up to the 321k expressions of VLM-R1's files, not counted one by one"
_NOT_MENDED = "boxes are pixels of the original picture; a model that sees a resized one answers in other coordinates"
_LICENCE = "none on the card; COCO's pictures are under Flickr's terms"
_COCO = Pictures(
    archive="train2014.zip",
    is_fetched=False,
    where=(
        "get COCO's train2014.zip (13.5 GB) from https://huggingface.co/datasets/omlab/VLM-R1 or "
        "http://images.cocodataset.org/zips/train2014.zip"
    ),
)


def _of_coco(name: str, file: str, about: str, num_rows: int) -> PreparedSet:
    return PreparedSet(
        name=name,
        about=about,
        hub_id=_HUB_ID,
        rows=(file,),
        rows_archive=_ARCHIVE,
        pictures=_COCO,
        columns=_COLUMNS,
        more_columns=_MORE_COLUMNS,
        num_rows=NumRows(low=num_rows * 99 // 100, high=num_rows * 101 // 100, why=_WHY),
        source=_SOURCE,
        not_mended=_NOT_MENDED,
        licence=_LICENCE,
        published=BOXES,
    )


BOX_SETS = (
    _of_coco("refcoco", "refcoco_train.json", "one object by a short expression, COCO pictures", 120_624),
    _of_coco("refcoco-plus", "refcocop_train.json", "the same without words of position", 120_191),
    _of_coco("refcocog", "refcocog_train.json", "the same with long expressions", 80_512),
    PreparedSet(
        name="refgta",
        about="people in pictures of a computer game, for tests outside COCO",
        hub_id=_HUB_ID,
        rows=("refgta_subsample.json",),
        rows_archive=_ARCHIVE,
        pictures=Pictures(archive="refgta.zip"),
        columns=_COLUMNS,
        more_columns=_MORE_COLUMNS,
        num_rows=None,
        source=_SOURCE,
        not_mended=f"the number of rows was not seen; {_NOT_MENDED}",
        licence="not seen",
        published=BOXES,
    ),
)
