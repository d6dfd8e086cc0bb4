"""Prepared sets of geometry and counting: R1-V's, G-LLaVA's and EasyR1's."""

from sightline.curation.prepared import mending
from sightline.curation.prepared.prepared_set import Defect, NumRows, Pictures, PreparedSet
from sightline.curation.prepared.prompts import MAIR_HUB, OURS, R1_V
from sightline.data.config import SourceConfig

_TAGGED = Defect(
    name="tagged_answer",
    about="gold answers stand in <answer> tags; the gold is what is inside",
    is_in=mending.is_tagged("solution"),
)

GEOMETRY_SETS = (
    PreparedSet(
        name="clevr-70k-counting",
        about="how many objects are in a rendered scene (R1-V)",
        hub_id="leonardPKU/clevr_cogen_a_train",
        rows=("data/train-*.parquet",),
        columns=("image", "problem", "solution"),
        num_rows=NumRows(low=69_500, high=70_500, why='the viewer, "70k"'),
        source=SourceConfig(format="r1v", answer_kind="count"),
        defects=(_TAGGED,),
        licence="none on the card",
        published=R1_V,
    ),
    PreparedSet(
        name="geoqa-8k",
        about="school geometry with pictures (R1-V)",
        hub_id="leonardPKU/GEOQA_R1V_Train_8K",
        rows=("data/train-*.parquet",),
        columns=("image", "problem", "solution"),
        num_rows=NumRows(low=7_500, high=8_500, why='its name, "8K"; not counted'),
        source=SourceConfig(format="r1v"),
        defects=(_TAGGED,),
        not_mended="golds have units and roots (145°, 10√2 cm), where the published prompt says (number)",
        licence="none seen",
        published=R1_V,
        recommended=OURS,
    ),
    PreparedSet(
        name="geo170k",
        about="geometry with worked answers, the part qa_tuning (G-LLaVA)",
        hub_id="Luckyjhg/Geo170K",
        rows=("qa_tuning.json", "data/qa_tuning-*.parquet"),
        pictures=Pictures(archive="images.zip"),
        columns=("image", "conversations"),
        num_rows=NumRows(low=117_205, high=117_205, why="the card"),
        source=SourceConfig(format="sightline"),
        mend=mending.conversation_as_choice,
        defects=(
            Defect(
                name="letter_in_text",
                about='the gold is the letter after "Answer:" at the end; it is taken out, the rest is the solution',
                is_in=mending.states_letter,
            ),
            Defect(
                name="no_checkable_answer",
                about="other worked answers can't be checked: kind none, for supervised fine-tuning only",
                is_in=mending.states_no_letter,
            ),
        ),
        not_mended="not seen: whether the rows are JSON or parquet (either is read), how many end in a letter",
        keep={"letter_stated": (1, 1)},
        licence="none on the card",
        published=None,
        recommended=OURS,
    ),
    PreparedSet(
        name="geometry3k",
        about="school geometry with pictures, the part train (EasyR1)",
        hub_id="hiyouga/geometry3k",
        rows=("data/train-*.parquet",),
        columns=("images", "problem", "answer"),
        num_rows=NumRows(low=2_101, high=2_101, why="a stored copy of the card"),
        source=SourceConfig(format="problem_answer"),
        licence="MIT in a stored copy of the card",
        published=MAIR_HUB,
    ),
)
