"""Which device a run uses."""

from __future__ import annotations

from ...errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(device: str, *, elsewhere: bool = False) -> str:
    """``auto`` → ``cuda`` where torch can use a GPU, else ``cpu``.

    Args:
        device: One of :data:`DEVICES`.
        elsewhere: ``cuda`` means the GPUs of other machines, so that none need be here.

    Raises:
        InputError: *device* is unknown, or ``cuda`` is asked for and torch sees no GPU.
    """
    if device not in DEVICES:
        raise InputError(f"--device {device}: expected one of: {', '.join(DEVICES)}")
    if device == "cpu" or (device == "cuda" and elsewhere):
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "cuda":
        raise InputError(
            f"--device cuda: torch {torch.__version__} sees no GPU; see `medbench doctor`, "
            "or use --device cpu"
        )
    return "cpu"
