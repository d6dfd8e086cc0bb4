"""The order in which a recipe's problems are drawn: its mixture, its curriculum, its seed."""

from collections.abc import Sequence

from sightline.data.columns import number_at
from sightline.data.config import DataConfig
from sightline.data.sampling import Pool, ProblemOrder, curriculum_pool_order
from sightline.types import Problem


def problem_order(
    problems: Sequence[Problem], source_numbers: Sequence[int], config: DataConfig, seed: int
) -> ProblemOrder:
    """`source_numbers` says of each problem from which of the config's sources it comes.

    Raises ConfigError if a source has no problem left.
    """
    pools: list[Pool] = []
    for number, source in enumerate(config.all_sources):
        indices = [index for index, each in enumerate(source_numbers) if each == number]
        name = source.name or ", ".join(source.paths)
        pool = Pool(name=name, indices=indices, weight=source.weight, count=source.count)
        pools.append(_in_curriculum(pool, problems, config))
    return ProblemOrder(pools, seed, shuffle=config.shuffle)


def _in_curriculum(pool: Pool, problems: Sequence[Problem], config: DataConfig) -> Pool:
    curriculum = config.curriculum
    if curriculum is None:
        return pool
    values = [number_at(problems[index].metadata, curriculum.column) for index in pool.indices]
    places, buckets = curriculum_pool_order(values, curriculum.order, curriculum.num_buckets)
    indices = [pool.indices[place] for place in places]
    return Pool(name=pool.name, indices=indices, weight=pool.weight, count=pool.count, buckets=buckets)
