"""Qwen2.5-VL (arXiv:2502.13923): Qwen2-VL's processor and positions; its vision tower attends in windows."""

from sightline.models.qwen2_vl import Qwen2VL
from sightline.types import BoxSpace


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL; the windows are the model's own affair, so that for still images only boxes differ."""

    model_type = "qwen2_5_vl"
    box_space: BoxSpace | None = "model_input"
