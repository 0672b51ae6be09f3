"""The plain session under :class:`.runtime.OrtModel`: on the device asked for, or an error."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, StageError

if TYPE_CHECKING:
    import torch

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ENTRIES = {
    "cpu": {"session.intra_op.allow_spinning": "0"},
    # The arena would round the memory of weights up, and keep what a kernel repacked.
    "cuda": {"session.use_device_allocator_for_initializers": "1"},
}
_ELEMENTS = {"float32": 1, "float16": 10, "bfloat16": 16, "int64": 7, "int32": 6}
"""torch's name of an element type → onnx.TensorProto.DataType, which IOBinding takes.

It takes numpy's types too, but numpy has no bfloat16.
"""
_FLOATS = {"float": "float32", "float16": "float16", "bfloat16": "bfloat16"}
"""ONNX Runtime's name of an element type → torch's."""
_WEIGHTS = "session.model_external_initializers_file_folder_path"
_ROOM = 0.5
"""Share of the free memory that caches may take."""
_SILENT = 4  # FATAL: below it, loading logs warnings about normal placements of shape operators


def require_device(device: str) -> None:
    """Check that ONNX Runtime and torch can both use *device*, without starting a session.

    ``get_available_providers()`` lists what was compiled in, not what this machine can run, and a
    session asked for CUDA without a driver falls back to the CPU; hence the probe of the driver.

    Args:
        device: ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        InputError: The device is unknown, or this machine or installation lacks what it needs.
    """
    kind = device.partition(":")[0]
    if kind not in _PROVIDERS:
        raise InputError(f"device {device!r}: unknown; use one of {', '.join(_PROVIDERS)}")
    if kind == "cpu":
        return
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        ctypes.CDLL(driver)
    except OSError:
        raise InputError(
            f"device {device!r}: this machine has no NVIDIA driver ({driver} cannot be loaded); "
            "use device cpu, or install the driver"
        ) from None
    import onnxruntime
    import torch

    if _PROVIDERS[kind] not in onnxruntime.get_available_providers():
        raise InputError(
            f"device {device!r}: the installed onnxruntime {onnxruntime.__version__} has no CUDA; "
            "install onnxruntime-gpu in its place"
        )
    if not torch.cuda.is_available():
        raise InputError(
            f"device {device!r}: the installed torch {torch.__version__} cannot use the GPU; "
            "install a CUDA build of torch that this driver supports"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on *device*."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def read_config(folder: Path) -> dict[str, Any]:
    """``genai_config.json`` of the export in *folder*.

    Raises:
        InputError: There is none.
    """
    path = folder / "genai_config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing, so {folder} is no export; export the model again"
        ) from None
    return config


def element_type(node: Any) -> torch.dtype:
    """Of an input or output of a session that holds floating-point numbers."""
    import torch

    found: torch.dtype = getattr(torch, _FLOATS[node.type.removeprefix("tensor(")[:-1]])
    return found


def bind(
    binder: Callable[..., None], name: str, tensor: torch.Tensor, shape: tuple[int, ...] = ()
) -> None:
    """Have a session read or write *tensor* where it lies.

    Args:
        binder: ``bind_input`` or ``bind_output`` of an IOBinding.
        name: Of the graph's input or output.
        tensor: Contiguous; it must live as long as the binding is used.
        shape: To take it for; its own if empty.
    """
    element = _ELEMENTS[str(tensor.dtype).removeprefix("torch.")]
    device = tensor.device
    shape = shape or tuple(tensor.shape)
    binder(name, device.type, device.index or 0, element, shape, tensor.data_ptr())


def device_of(name: str) -> torch.device:
    """*name* as torch's device, with an index if it is a GPU."""
    import torch

    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def run(session: Any, binding: Any, device: torch.device, options: Any = None) -> None:
    """Run *session* over what is bound, once torch has written all of it."""
    if device.type == "cuda":
        import torch

        # ONNX Runtime computes on a stream of its own: what torch still writes must be there.
        torch.cuda.current_stream(device).synchronize()
    session.run_with_iobinding(binding, options)


def rows(row_bytes: int, device: torch.device) -> int:
    """How many caches of *row_bytes* the free memory has room for, and at least 1."""
    return max(1, int(_ROOM * free_memory(device) / row_bytes))


def open_session(
    path: Path,
    device: torch.device,
    threads: int,
    *,
    cuda_graph: bool,
    entries: Mapping[str, str] = {},
    graph: bytes | None = None,
) -> Any:
    """An InferenceSession on *device*; never on another device.

    Args:
        path: The graph.
        device: ``cpu``, or ``cuda`` with an index.
        threads: Of one CPU operator; idle ones do not spin.
        cuda_graph: Let steps be captured as CUDA graphs.
        entries: Further session configuration, by name.
        graph: To run in its place, serialised; its weights are the files beside *path*.

    Raises:
        StageError: It cannot be loaded, or only on another device.
    """
    import onnxruntime

    onnxruntime.set_default_logger_severity(_SILENT)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    for name, value in {**_ENTRIES["cpu"], **_ENTRIES[device.type], **entries}.items():
        options.add_session_config_entry(name, value)
    if graph is not None:
        options.add_session_config_entry(_WEIGHTS, str(path.parent.resolve()))
    wanted = _PROVIDERS[device.type]
    cuda = {"device_id": str(device.index), "enable_cuda_graph": str(int(cuda_graph))}
    choice = (wanted, cuda) if device.type == "cuda" else wanted
    try:
        session = onnxruntime.InferenceSession(graph or path, options, providers=[choice])
    except Exception as error:  # the runtime's own exceptions share no narrower base
        raise StageError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it; export the model "
            f"again. It said: {str(error).splitlines()[0]}"
        ) from error
    if session.get_providers()[0] != wanted:
        raise StageError(f"{path}: ONNX Runtime fell back from CUDA to the CPU: {_why_no_cuda()}")
    return session


def _why_no_cuda() -> str:
    """The loader's own words on the library that ONNX Runtime's CUDA provider misses."""
    import onnxruntime

    libraries = Path(onnxruntime.__file__).parent / "capi"
    try:
        for path in sorted(libraries.glob("*onnxruntime_providers_cuda*")):
            ctypes.CDLL(str(path))
    except OSError as error:
        return f"{error}; install the CUDA and cuDNN libraries that match this onnxruntime-gpu"
    return "its CUDA provider loads by itself; see whether the GPU has free memory"
