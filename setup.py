"""What pyproject.toml cannot say: assets/ goes into the wheel as part of the package."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["magicanimate*", "densepose_tools*", "training*"]),
        "magicanimate.assets",
    ],
    package_dir={"magicanimate.assets": "assets"},
    package_data={
        "magicanimate": ["**/*.md", "**/*.css", "**/*.js", "**/*.json", "**/*.png"],
        "magicanimate.assets": ["**/*"],
        "training.evaluation": ["protocols/*.json"],
    },
)
