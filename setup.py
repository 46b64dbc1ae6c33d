"""Everything static stands in pyproject.toml; this file is where the optional native extension will hook in."""

from setuptools import setup

setup()
