"""Reading weights from local files and putting them into a network with another head."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from distill.errors import UserError, first_line

WRAPPERS = ("module.", "model.", "backbone.", "network.", "net.", "_orig_mod.", "encoder.")
ADVICE = (
    "fetch them where there is a network and name the file with model.pretrained=FILE, or start "
    "random with model.pretrained=false"
)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a `.safetensors` file, or of a checkpoint that `torch.load` reads as weights only.

    Raises:
        UserError: No such file, or not a file of tensors.
    """
    check_weights_file(path)
    file = Path(path)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bad bytes make unpicklers raise nearly every built-in type
        first = first_line(error)
        raise UserError(f"not a weights file: {first}", str(path), "use .safetensors") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError("not a mapping of names to tensors", str(path), "save a state_dict")
    return state


def without_wrapper(state: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Weights without what training frameworks put before all names, if none is a network's own."""
    while state and state.keys().isdisjoint(own):
        first = next(iter(state)).partition(".")[0] + "."
        if first not in WRAPPERS or not all(name.startswith(first) for name in state):
            break
        state = {name.removeprefix(first): tensor for name, tensor in state.items()}
    return state


def check_weights_file(path: str | Path) -> None:
    """Raises `UserError` where there is no such file."""
    if "\0" in str(path) or not Path(path).is_file():
        hint = "set model.pretrained=FILE, true (the library's own) or false (random start)"
        raise UserError("no such weights file", str(path), hint)


def transfer_weights(network: nn.Module, state: dict[str, Tensor], head: list[str]) -> list[str]:
    """Loads everything that fits; only the head may differ, and then keeps its random start.

    Args:
        head: Prefixes of the head's parameters.

    Returns:
        Names of the head's parameters that were not loaded.

    Raises:
        UserError: A parameter of the backbone is missing or of another shape, or the file holds
            weights this network has no place for.
    """
    own = network.state_dict()
    state = without_wrapper(state, own)
    fits = {n: t for n, t in state.items() if n in own and t.shape == own[n].shape}
    in_head = tuple(f"{prefix}." for prefix in head)
    missing = [n for n in own if n not in fits and not n.endswith("num_batches_tracked")]
    if not any(not n.startswith(in_head) for n in own):
        in_head = ()  # there is nothing but a head: all of it is there, or it is of no use
    wrong = [n for n in (*missing, *state) if n not in fits and not n.startswith(in_head)]
    if wrong:
        what = f"the weights are of another network: {wrong[0]!r} does not fit"
        theirs, ours = next(iter(state), "nothing"), next(iter(own), "nothing")
        hint = f"they begin with {theirs!r}, the network with {ours!r}"
        raise UserError(f"{what} ({len(wrong)} in all)", "model.pretrained", hint)
    network.load_state_dict({n: t.to(own[n].dtype) for n, t in fits.items()}, strict=False)
    return missing


@contextlib.contextmanager
def quick_offline() -> Iterator[None]:
    """Lets the Hub's client look into its cache only, where its host has no address here.

    It would ask in vain for a minute, be the weights in the cache or not. Behind a proxy it is the
    proxy that knows addresses.
    """
    from huggingface_hub import constants

    before, proxied = constants.HF_HUB_OFFLINE, any(getproxies().get(k) for k in ("https", "all"))
    try:
        if not proxied:
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def download(name: str, create: Callable[[], nn.Module], advice: str = ADVICE) -> nn.Module:
    """Runs a library's own loading of weights, which downloads them unless they are cached.

    Args:
        advice: What to do where they cannot be had.

    Raises:
        UserError: They could not be had; never a silent random start.
    """
    try:
        return create()
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise UserError(
            f"no pretrained weights for {name} ({type(error).__name__}: {reason})",
            "model.pretrained",
            advice,
        ) from None
