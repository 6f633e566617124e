"""The one place that opens ONNX Runtime sessions, so that every number comes from a provider that really runs."""

from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from prune_tool.errors import ProviderError, RunError

PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""ONNX Runtime's names behind ours: the one asked for, then those that take the operators it lacks."""

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)
"""What ONNX Runtime raises; its own exceptions share no base. A ``ValueError`` comes of missing inputs and of a damaged
file whose error message is itself no text."""

FATAL_ONLY = 4
"""Log severity. Failures reach the caller as exceptions; warnings about graph optimisations help nobody here."""


def open_session(
    model: Path | bytes,
    *,
    provider: str = "cpu",
    n_threads: int | None = None,
    optimise: bool = True,
    spin: bool = True,
) -> ort.InferenceSession:
    """Open an ONNX model on exactly the provider asked for.

    Args:
        model: path of the file, or its bytes.
        provider: "cpu", "cuda" or "tensorrt".
        n_threads: threads within an operator; None leaves it to ONNX Runtime (one a physical core).
        optimise: False runs the graph as it is written.
        spin: False lets waiting threads sleep, for work that shares the cores with other threads (decoding images).

    Raises:
        ProviderError: the provider is unknown, not installed, or ONNX Runtime fell back to another.
        RunError: the file is missing, damaged, or no ONNX model that ONNX Runtime can run.
    """
    names = _provider_names(provider)
    if isinstance(model, Path) and not model.is_file():
        raise _unusable(model, "there is no such file")
    options = ort.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.inter_op_num_threads = 1
    if n_threads is not None:
        options.intra_op_num_threads = n_threads
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model, options, providers=list(names), enable_fallback=0)
    except RUNTIME_ERRORS as error:
        raise _unusable(model, f"ONNX Runtime says: {error}") from error
    if session.get_providers()[0] != names[0]:
        raise _absent(provider, f"ONNX Runtime fell back to {session.get_providers()[0]}")
    return session


def _provider_names(provider: str) -> tuple[str, ...]:
    """ONNX Runtime's names for ``provider``, whose libraries are then loaded; raises ``ProviderError``."""
    names = PROVIDERS.get(provider)
    if names is None:
        raise _absent(provider, f"the providers known are {', '.join(PROVIDERS)}")
    if names[0] not in ort.get_available_providers():
        raise _absent(provider, f"ONNX Runtime {ort.__version__} here offers {', '.join(available_providers())}")
    if provider != "cpu":
        ort.preload_dlls()  # finds the CUDA libraries that pip installed beside it
    return names


def available_providers() -> list[str]:
    """The providers that ``open_session`` can be asked for here, by our names."""
    installed = ort.get_available_providers()
    return [short for short, names in PROVIDERS.items() if names[0] in installed]


def _absent(provider: str, found: str) -> ProviderError:
    remedy = f"Use one of: {', '.join(available_providers())}"
    if provider in PROVIDERS:
        remedy += f", or install onnxruntime-gpu in place of onnxruntime, with the libraries that {provider} needs"
    return ProviderError(asked=f"provider {provider}", found=found, remedy=remedy)


def _unusable(model: Path | bytes, found: str) -> RunError:
    name = str(model) if isinstance(model, Path) else f"a model of {len(model):,} bytes"
    return RunError(asked=f"open {name}", found=found, remedy="Export it again, or give the path of an ONNX file")
