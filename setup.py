"""Map the folders of this repository onto the one import package `peerfabric`."""

from setuptools import find_packages, setup

FOLDERS = {
    "peerfabric": "fabric",
    "peerfabric.discovery": "discovery",
    "peerfabric.nodes": "nodes",
    # What users import besides the names of `peerfabric` itself.
    "peerfabric.admin": "nodes/admin",
    "peerfabric.gateway": "nodes/gateway",
    "peerfabric.metrics": "nodes/metrics",
    "peerfabric.otel": "nodes/otel",
    "peerfabric.testing": "nodes/testing",
    # `peerfabric demo` runs this example, also where only the wheel is installed; so it is the one example that ships.
    "peerfabric.indexer": "examples/indexer",
}


def packages_in(folder: str) -> list[str]:
    """Packages below a folder, without those that are mapped by themselves."""
    elsewhere = [other.removeprefix(f"{folder}/") for other in FOLDERS.values() if other.startswith(f"{folder}/")]
    return find_packages(folder, exclude=[pattern for name in elsewhere for pattern in (name, f"{name}.*")])


setup(
    package_dir=FOLDERS,
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in [package, *(f"{package}.{inner}" for inner in packages_in(folder))]
    ],
    package_data={"peerfabric": ["py.typed"], "peerfabric.gateway": ["page/*"], "peerfabric.metrics": ["*.json"]},
)
