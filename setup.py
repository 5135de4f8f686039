"""Package `swin_keras`; the folders `export/` and `edge_demo/` install inside it."""

import pathlib
import re

from setuptools import find_packages, setup

FOLDERS = {
    "swin_keras": "swin_keras",
    "swin_keras.export": "export",
    "swin_keras.edge_demo": "edge_demo",
}
ROOT = pathlib.Path(__file__).parent
KERAS_HUB = "keras-hub>=0.32,<0.33"
COCO_TOOLS = "pycocotools>=2.0.8,<3"


def packages_in(name, folder):
    return [name] + [f"{name}.{child}" for child in find_packages(folder)]


setup(
    name="swin-keras",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "swin_keras" / "version.py").read_text()).group(1),
    description="Swin Transformers in Keras 3, from training to a phone",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir=FOLDERS,
    packages=[package for item in FOLDERS.items() for package in packages_in(*item)],
    package_data={"swin_keras": ["weights/imagenet_22k_to_1k.txt"], "swin_keras.edge_demo": ["requirements.txt", "web/*"]},
    # CONTRIBUTING.md gives the reason for each.
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.15,<3.16",
        "tensorflow-datasets>=4.9.10,<5",
        "importlib_resources>=5",
        "tensorflow-model-optimization>=0.8.1,<0.9",
        "litert-quantizer>=0.11,<0.12",
        "ai-edge-litert>=2.3,<2.4",
        "flatbuffers>=24",
        "scikit-learn>=1.5,<2",
        "Pillow>=11",
        "safetensors>=0.5,<1",
        "h5py>=3",
        "ml-dtypes>=0.4",
        "huggingface_hub>=0.30",
        "numpy>=1.26",
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "jax": ["jax>=0.6"],
        "torch": ["torch>=2.6"],
        "detection": [KERAS_HUB, COCO_TOOLS],
        "camera": ["opencv-python-headless>=4"],
        "test": ["pytest>=8", "pytest-xdist>=3.5", "ruff==0.17.6", KERAS_HUB, COCO_TOOLS],
    },
    entry_points={"console_scripts": ["swin-keras = swin_keras.cli:main"]},
)
