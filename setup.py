"""Map the three folders of this repository onto the one import package `peerfabric`."""

from setuptools import find_packages, setup

FOLDERS = {"peerfabric": "fabric", "peerfabric.nodes": "nodes", "peerfabric.discovery": "discovery"}

setup(
    package_dir=FOLDERS,
    packages=[
        name
        for package, folder in FOLDERS.items()
        for name in [package, *(f"{package}.{inner}" for inner in find_packages(folder))]
    ],
)
