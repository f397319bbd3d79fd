"""A plan with low-rank branches beside its linear layers, of which a step takes those of its sequences' adapters."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cutwork.plan.builder import Plan
from cutwork.plan.ops import Linear
from cutwork.plan.verify import verify


@dataclass(frozen=True)
class Branch:
    """What adapter number `adapter` adds to the linear layer of a `weight`: x·downᵀ·up, with `rank` rows of either."""

    adapter: int
    weight: str
    rank: int

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return f"adapter {self.adapter}, {self.weight}"


def adaptable(plan: Plan) -> dict[str, tuple[int, int]]:
    """The weights whose linear layers can have branches, with their shapes: nothing but a residual comes after the
    product, and every token has a row."""
    names = list(plan.weights)
    return {
        names[weight]: plan.weights[names[weight]]
        for op in plan.ops
        if isinstance(op, Linear) and op.activation == "none" and plan.buffers[op.x].rows == "T"
        for weight in op.weights
    }


def with_branches(plan: Plan, branches: Sequence[Branch]) -> Plan:
    """The verified plan that takes the branches too. Their weights and vectors, NAME.down and NAME.up by the `name` of
    each branch, come after the plan's own."""
    by_weight: defaultdict[str, list[Branch]] = defaultdict(list)
    for branch in branches:
        by_weight[branch.weight].append(branch)
    result = replace(plan, ops=[], buffers=list(plan.buffers), weights=dict(plan.weights), vectors=dict(plan.vectors))
    names = list(plan.weights)
    for op in plan.ops:
        result.ops.append(op)
        if isinstance(op, Linear):
            x = plan.buffers[op.x]
            for out, weight in zip(op.outs, op.weights, strict=True):
                for branch in by_weight[names[weight]]:
                    y = plan.buffers[out]
                    result.low_rank(x, y, branch.name, rank=branch.rank, adapter=branch.adapter)
    verify(result)
    return result
