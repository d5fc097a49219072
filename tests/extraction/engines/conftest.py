"""A Ray cluster for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from tests.extraction.engines import machines


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """Two cores of Ray, found as a cluster of `ray start` is."""
    with machines.own_temporary_folder():
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100_000_000})
        yield started
        started.shutdown()
        machines.until(lambda: not machines.of_ray(os.getpid()))
