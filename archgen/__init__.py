"""archgen: neural networks generated to order, as graphs, as PyTorch modules, and trained."""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "ArchBERT": "archgen.text",
    "Architecture": "archgen.graph",
    "ArchitectureOutput": "archgen.pipeline",
    "ArchitecturePipeline": "archgen.pipeline",
    "AbsorbingScheduler": "archgen.scheduler",
    "Constraint": "archgen.constraint",
    "Classifier": "archgen.classifier",
    "GraphDenoiser": "archgen.denoiser",
    "Infeasible": "archgen.constraint",
    "Oracle": "archgen.benchmark",
    "SearchSpace": "archgen.space",
    "Table": "archgen.benchmark",
    "VEScheduler": "archgen.scheduler",
    "load_images": "archgen.images",
    "load_network": "archgen.classifier",
    "load_space": "archgen.space",
    "understand": "archgen.understanding",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import archgen` is instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'archgen' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """Public names."""
    return [*globals(), *__all__]
