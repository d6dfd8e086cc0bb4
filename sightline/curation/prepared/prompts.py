"""The prompts of prepared sets, letter by letter as their projects train with them, and our own."""

from sightline.curation.prepared.prepared_set import Asking

LMM_R1 = Asking(whose="LMM-R1: a system prompt in every row", template="{problem}")
R1_V = Asking(
    whose="R1-V, open-r1-multimodal, R1-MLLM",
    template=(
        "{problem}  Output the thinking process in <think> </think> and final answer (number) in <answer> </answer> "
        "tags."
    ),
)
BOXES = Asking(
    whose="R1-MLLM, VLM-R1",
    template=(
        "{problem} First output the thinking process in <think> </think> tags and then output the final answer in "
        "<answer> </answer> tags. Output the final answer in JSON format."
    ),
)
MAIR_HUB = Asking(
    whose="MAIR-HUB",
    template=(
        "{problem}  You first think about the reasoning process as an internal monologue and then provide the user "
        "with the answer. Respond in the following format: <think>\n...\n</think>\n<answer>\n...\n</answer>"
    ),
)
OURS = Asking(
    whose="ours",
    template=(
        "{problem}\n\nThink first, inside <think> </think>. Then give the final answer alone inside <answer> "
        "</answer>: the letter if there are options, otherwise the value."
    ),
)
OURS_WITHOUT_THEIRS = Asking(whose="ours", template=OURS.template, system_prompt="")
