"""The parts of a network from input to output, as transfer learning freezes and scales them."""

from __future__ import annotations

from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


CONTAINERS = ("features", "blocks", "stages", "layers")


def stages(network: nn.Module) -> list[list[str]]:
    """Parameter-name prefixes from input to output; the last stage is the head.

    Containers that the field calls features, blocks, stages or layers are opened; auxiliary heads
    belong to the head.
    """
    prefixes: list[str] = []
    for name, child in network.named_children():
        if not any(True for _ in child.parameters()):
            continue
        if name in CONTAINERS and isinstance(child, nn.Sequential | nn.ModuleList):
            prefixes += [
                f"{name}.{key}"
                for key, part in child.named_children()
                if any(True for _ in part.parameters())
            ]
        else:
            prefixes.append(name)
    auxiliary = [name for name in prefixes if name.lower().startswith("aux")]
    groups: list[list[str]] = []
    for name in prefixes:
        if groups and isinstance(network.get_submodule(name), NORMS):
            groups[-1].append(name)  # a norm belongs to what it normalises
        elif name not in auxiliary:
            groups.append([name])
    return [*groups[:-1], [*groups[-1], *auxiliary]]


def head_prefixes(network: nn.Module) -> list[str]:
    """Names of the modules that depend on the classes."""
    return stages(network)[-1]


def parameter_stages(network: nn.Module) -> dict[str, int]:
    """The stage of each parameter, 0 being the input's; parameters of no module are in stage 0."""
    owners = {prefix: i for i, group in enumerate(stages(network)) for prefix in group}

    def stage_of(name: str) -> int:
        hits = [i for prefix, i in owners.items() if name.startswith(prefix + ".")]
        return max(hits, default=0)

    return {name: stage_of(name) for name, _ in network.named_parameters()}
