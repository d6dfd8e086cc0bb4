"""Prepared sets of mathematics: LMM-R1's, MAIR-HUB's and open-r1-multimodal's."""

from sightline.curation.prepared import mending
from sightline.curation.prepared.prepared_set import Defect, NumRows, Pictures, PreparedSet
from sightline.curation.prepared.prompts import LMM_R1, MAIR_HUB, OURS, OURS_WITHOUT_THEIRS, R1_V
from sightline.data.config import SourceConfig

# Where the paths of LMM-R1's pictures begin, as public scripts that unpack them have it.
_VERMULTI_PREFIX = "/apdcephfs_gy2/share_302735770/berlinni/zgr/data/mathv60k/"
_VERMULTI_GEO_PREFIX = "data/mathv_geo/"

_WRAPPED = Defect(
    name="wrapped_answer",
    about=r"gold answers are written $...$ or $\boxed{...}$; the gold is what is inside",
    is_in=mending.is_wrapped("answer"),
)
_GLUED = Defect(
    name="glued_tags",
    about="<answer>12</answer> without spaces, which math-verify can't read; the gold is what is inside",
    is_in=mending.is_glued("solution"),
)

MATH_SETS = (
    PreparedSet(
        name="deepscaler-40k",
        about="competition mathematics in text (LMM-R1, first stage)",
        hub_id="VLM-Reasoner/deepscaler",
        rows=("deepscaler_message.jsonl",),
        columns=("message", "answer"),
        more_columns=("question", "datasource"),
        num_rows=NumRows(low=36_000, high=44_000, why='its name, "40K"; not counted'),
        source=SourceConfig(format="lmm_r1"),
        defects=(_WRAPPED,),
        licence="not seen on the card; check before use",
        published=LMM_R1,
        recommended=OURS_WITHOUT_THEIRS,
    ),
    PreparedSet(
        name="math-lv3-5",
        about="MATH, levels 3 to 5, in text (LMM-R1's first result)",
        hub_id=None,
        where=(
            "get examples/data/mathlv345_8k_chatml.json from https://github.com/TideDra/lmm-r1 and give its folder "
            "with --from"
        ),
        rows=("mathlv345_8k_chatml.json",),
        columns=("prompt", "answer"),
        more_columns=("gt_answer", "level", "question", "subject"),
        num_rows=NumRows(low=7_500, high=9_000, why='its name, "8k"; not counted'),
        source=SourceConfig(format="lmm_r1"),
        mend=mending.chat_markup_as_messages,
        defects=(
            Defect(
                name="chat_markup",
                about="prompts are text with <|im_start|> marks of one model family; they become messages",
                is_in=mending.has_chat_markup,
            ),
            _WRAPPED,
        ),
        licence="MATH is MIT, not verified for this file; check before use",
        published=LMM_R1,
        recommended=OURS_WITHOUT_THEIRS,
    ),
    PreparedSet(
        name="vermulti",
        about="verifiable questions on pictures of many kinds (LMM-R1, second stage)",
        hub_id="VLM-Reasoner/VerMulti",
        rows=("mathv60k_message.jsonl",),
        pictures=Pictures(archive="mathv60k_img.tar.gz"),
        columns=("message", "answer"),
        more_columns=("question", "datasource"),
        num_rows=NumRows(low=54_000, high=66_000, why='its name, "60k"; not counted'),
        source=SourceConfig(format="lmm_r1", image_prefix=_VERMULTI_PREFIX),
        defects=(
            _WRAPPED,
            Defect(
                name="foreign_paths",
                about="pictures are named by paths of the authors' cluster; they are found in the archive",
                is_in=mending.mentions("message", _VERMULTI_PREFIX),
            ),
        ),
        licence="none on the card; its sources have their own",
        published=LMM_R1,
        recommended=OURS_WITHOUT_THEIRS,
    ),
    PreparedSet(
        name="vermulti-geo",
        about="the geometry of VerMulti (LMM-R1, second stage)",
        hub_id="VLM-Reasoner/VerMulti",
        rows=("mathv_geo_message.jsonl",),
        pictures=Pictures(archive="mathv_geo_img.tar.gz"),
        columns=("message", "answer"),
        more_columns=("question", "datasource"),
        num_rows=NumRows(low=13_500, high=16_500, why='its description, "15K"; not counted'),
        source=SourceConfig(format="lmm_r1", image_prefix=_VERMULTI_GEO_PREFIX),
        defects=(
            _WRAPPED,
            Defect(
                name="foreign_paths",
                about="paths of pictures begin in the authors' working folder; they are found in the archive",
                is_in=mending.mentions("message", _VERMULTI_GEO_PREFIX),
            ),
        ),
        licence="none on the card; its sources have their own",
        published=LMM_R1,
        recommended=OURS_WITHOUT_THEIRS,
    ),
    PreparedSet(
        name="multimodal-open-r1-8k",
        about="mathematics with pictures, rewritten by GPT-4o from MathV360K and Geo170K (open-r1-multimodal)",
        hub_id="lmms-lab/multimodal-open-r1-8k-verified",
        rows=("data/train-*.parquet",),
        columns=("image", "problem", "solution", "original_question", "original_answer"),
        num_rows=NumRows(low=7_685, high=7_694, why='the card, "7.69k"'),
        source=SourceConfig(format="r1v"),
        defects=(_GLUED,),
        not_mended="the first two rows are wrong (issue 9 of the repository); nobody checked GPT-4o's answers",
        licence="none on the card; its sources have their own",
        published=R1_V,
        recommended=OURS,
    ),
    PreparedSet(
        name="skywork-or1-math",
        about="competition mathematics in text, with difficulties (MAIR-HUB)",
        hub_id="Skywork/Skywork-OR1-RL-Data",
        rows=("data/math-*.parquet",),
        columns=("data_source", "prompt", "ability", "reward_model", "extra_info"),
        num_rows=NumRows(low=105_055, high=105_055, why="the card"),
        source=SourceConfig(format="verl"),
        defects=(
            Defect(
                name="several_golds",
                about="MAIR-HUB keeps the first of several right answers; all are kept, and extra_info's difficulties",
                is_in=mending.has_several_golds,
            ),
        ),
        licence="none in the card's field; copies on the hub say Apache-2.0 and MIT",
        published=MAIR_HUB,
    ),
    PreparedSet(
        name="mmk12",
        about="school mathematics with pictures, to fill in (MM-Eureka, MAIR-HUB)",
        hub_id="FanqingM/MMK12",
        rows=("data/train-*.parquet",),
        columns=("question", "answer", "image"),
        more_columns=("subject",),
        num_rows=NumRows(low=15_616, high=15_616, why="the card"),
        source=SourceConfig(format="problem_answer", columns={"problem": "question"}),
        not_mended="rows without an answer, or with more picture tags than pictures, are bad rows; MAIR-HUB drops them",
        licence="none in a stored copy of the card",
        published=MAIR_HUB,
    ),
)
