"""Policy-gradient algorithms, one file each; a recipe picks one by its `name`."""

from sightline.algorithms.grpo import Grpo

AlgorithmConfig = Grpo  # becomes `Annotated[Grpo | ..., Field(discriminator="name")]` with the second algorithm
