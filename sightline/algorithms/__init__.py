"""Policy-gradient algorithms, one file each; a recipe picks one by its `name`."""

from typing import Annotated

from pydantic import Field

from sightline.algorithms.cispo import Cispo
from sightline.algorithms.dapo import Dapo
from sightline.algorithms.dr_grpo import DrGrpo
from sightline.algorithms.gdpo import Gdpo
from sightline.algorithms.gmpo import Gmpo
from sightline.algorithms.grpo import Grpo
from sightline.algorithms.gspo import Gspo
from sightline.algorithms.opo import Opo
from sightline.algorithms.ppo import Ppo
from sightline.algorithms.reinforce_pp import ReinforcePlusPlus
from sightline.algorithms.reinforce_pp_baseline import ReinforcePlusPlusBaseline
from sightline.algorithms.remax import Remax
from sightline.algorithms.rloo import Rloo
from sightline.algorithms.sapo import Sapo

AlgorithmConfig = Annotated[
    Grpo
    | DrGrpo
    | Dapo
    | Gdpo
    | Rloo
    | Opo
    | ReinforcePlusPlus
    | ReinforcePlusPlusBaseline
    | Remax
    | Ppo
    | Gspo
    | Gmpo
    | Cispo
    | Sapo,
    Field(discriminator="name"),
]
