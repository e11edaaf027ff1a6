"""Map the folders of this repository onto the one import package `peerfabric`."""

from setuptools import find_packages, setup

FOLDERS = {
    "peerfabric": "fabric",
    "peerfabric.discovery": "discovery",
    "peerfabric.nodes": "nodes",
    # `peerfabric demo` runs this example, also where only the wheel is installed; so it is the one example that ships.
    "peerfabric.indexer": "examples/indexer",
}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in [package, *(f"{package}.{inner}" for inner in find_packages(folder))]
    ],
)
