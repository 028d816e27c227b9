"""A Ray cluster of several nodes on one machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Workers of Ray are new processes that must find the models of the tests.
TESTS = Path(__file__).resolve().parents[1]
ATTEMPTS = 4
SEARCHED = (str(TESTS), str(TESTS / "batch"))


@contextmanager
def ray_nodes(count: int) -> Iterator[tuple[Any, list[Any]]]:
    """Starts nodes of one core each (the head has none) and joins them; ends them all afterwards."""
    import ray
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join((*SEARCHED, *([before] if before else [])))
    os.environ.setdefault("RAY_worker_niceness", "0")  # else a busy machine starves them
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    store = 100 << 20
    cluster = Cluster()
    try:
        _add_node(cluster, num_cpus=0, object_store_memory=store, include_dashboard=False)
        nodes = [_add_node(cluster, num_cpus=1, object_store_memory=store) for _ in range(count)]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster, nodes
    finally:
        ray.shutdown()
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _add_node(cluster: Any, **options: Any) -> Any:
    """Ray gives a node 30 s to start, which a busy machine may not manage the first time."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return cluster.add_node(**options)
        except Exception as error:  # Ray raises no other
            if "timed out during startup" not in str(error) or attempt == ATTEMPTS:
                raise
    raise AssertionError
