"""plan.json: a plan, the machines it was made for and the job.

In: a file. Out: Placed, whose devices are the plan's ranks, in order.

`mpsplit plan` writes it. `partition` takes the plan and leaves the file in the package. `run
--report` and `bench` price it again. Invariant: there are as many devices as ranks.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mpsplit.errors import PlanError
from mpsplit.plan import cluster_json
from mpsplit.plan.cluster import Cluster
from mpsplit.plan.model_facts import ModelFacts
from mpsplit.plan.price.cost import Cost, price
from mpsplit.plan.price.sizes import BFLOAT, BITS, FLOAT, Job, memory
from mpsplit.plan.shards import Plan

PLAN = "plan.json"
GIB = 2**30


@dataclass(frozen=True)
class Placed:
    plan: Plan
    cluster: Cluster
    job: Job

    def price(self, facts: ModelFacts, **changes: Any) -> Cost:
        """Of this job, or of one that differs in `changes`."""
        return price(facts, self.plan, self.cluster, replace(self.job, **changes))

    def check_room(self, facts: ModelFacts) -> Placed:
        """Itself, when every rank has the memory that it needs."""
        for rank, (shard, device) in enumerate(zip(self.plan.shards, self.cluster.devices, strict=True)):
            need = memory(facts, shard, device, self.job)
            if need.total > device.memory_bytes:
                raise PlanError(
                    f"rank {rank} on {device.name} needs {need.total / GIB:.2f} GiB ({need.weights / GIB:.2f} of"
                    f" weights, {need.cache / GIB:.2f} of keys and values), it has {device.memory_bytes / GIB:.2f};"
                    " give it less, use --quant with fewer bits or a shorter --context"
                )
        return self

    def to_json(self) -> dict[str, Any]:
        return self.plan.to_json() | {"cluster": cluster_json.to_json(self.cluster), "job": asdict(self.job)}

    def save(self, path: Path) -> None:
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Placed | None:
        """None where the file has a plan alone."""
        data = Plan.read(path)
        plan = Plan.from_json(data)
        if "cluster" not in data:
            return None
        cluster = cluster_json.from_json(data["cluster"], str(path))
        if cluster.size != plan.ranks:
            raise PlanError(
                f"{path} has {plan.ranks} ranks on {cluster.size} devices; make it again with `mpsplit plan`"
            )
        return cls(plan, cluster, _job_from(data.get("job"), path))


def _job_from(data: object, path: Path) -> Job:
    """Fields that are not there are as they are without a word."""
    kinds = {field.name: type(field.default) for field in fields(Job)}
    if isinstance(data, dict) and _is_own(data.get("own")):
        data = data | {"own": tuple(map(tuple, data["own"]))}
    fine = isinstance(data, dict) and all(type(value) is kinds.get(name) for name, value in data.items())
    if not isinstance(data, dict) or not fine:
        raise PlanError(f"{path} has no job that can be read ({data!a:.200}); make it again with `mpsplit plan`")
    return Job(**data)


def _is_own(rows: object) -> bool:
    """Whether these are roles, kinds and parts, as JSON has them."""
    return isinstance(rows, list) and all(
        isinstance(row, list)
        and [type(field) for field in row] == [str, str, float]
        and row[1] in (FLOAT, BFLOAT, *BITS)
        and 0 < row[2] <= 1
        for row in rows
    )
