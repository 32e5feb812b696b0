from __future__ import annotations

from pathlib import Path

import pytest

from megafm.data.sources import Source, list_shards

NUMPY = Source(packages=("numpy",))


def test_the_installation_is_listed_without_absolute_paths() -> None:
    listing = list_shards(NUMPY)
    ids = [shard.name for shard in listing.shards]
    assert "stdlib/python/argparse.py" in ids
    assert any(name.startswith("package/numpy/numpy/") for name in ids)
    assert ids == sorted(set(ids))
    assert not any(shard.path.startswith("/") or ".." in shard.path for shard in listing.shards)
    assert "standard library without its tests + 1 packages" in listing.corpus


def test_tests_compiled_and_machine_specific_files_stay_out() -> None:
    listing = list_shards(NUMPY)
    for shard in listing.shards:
        folders = shard.path.split("/")[:-1]
        assert not {"__pycache__", "site-packages", "tests", "idle_test"} & set(folders), shard.name
        assert "_sysconfigdata" not in shard.path
        assert Path(shard.location).suffix in (".py", ".rst", ".txt", ".md")
    assert listing.dropped["test"] > 0
    with_tests = list_shards(Source(packages=("numpy",), package_tests=True))
    assert any("/tests/" in shard.path for shard in with_tests.shards)


def test_packages_that_are_not_permissive_are_named_and_counted() -> None:
    listing = list_shards(Source(packages=("hypothesis",)))
    assert [name.split()[0] for name in listing.skipped_packages] == ["hypothesis"]
    assert listing.dropped["licence"] > 50
    assert all(shard.source == "stdlib" for shard in listing.shards)


def test_a_package_stops_at_its_limit_of_bytes() -> None:
    listing = list_shards(Source(packages=("numpy",), max_package_bytes=300_000))
    sizes = [shard.size for shard in listing.shards if shard.source == "package"]
    assert sum(sizes) - max(sizes) < 300_000 <= sum(sizes)
    assert listing.dropped["package_limit"] > 100


def test_what_is_required_does_not_hang_on_extras() -> None:
    listing = list_shards(Source(packages="required"))
    packages = {str(shard.metadata["package"]).lower() for shard in listing.shards}
    assert {"torch", "numpy", "hydra-core", "jinja2"} <= packages  # jinja2: torch needs it
    assert not {"pytest", "pyarrow", "transformers", "triton", "megafm"} & packages


def test_an_unknown_package_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="source.packages names 'nonesuch': not installed"):
        list_shards(Source(packages=("nonesuch",)))
