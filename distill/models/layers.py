"""The parts of a network from input to output, as transfer learning freezes and scales them."""

from __future__ import annotations

from torch import nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


CONTAINERS = ("features", "blocks", "stages", "layers")


def layer_groups(network: nn.Module) -> list[list[str]]:
    """Parameter-name prefixes from input to output; the last group is the head.

    Containers that the field calls features, blocks, stages or layers are opened, and so is what
    holds all layers. The head is what the library says it is (timm's distilled networks have two),
    else what comes last; auxiliary heads belong to it.
    """
    holders = [(n, c) for n, c in network.named_children() if _has_parameters(c)]
    if len(holders) == 1 and any(map(_has_parameters, holders[0][1].children())):
        name, inner = holders[0]
        return [[f"{name}.{part}" for part in group] for group in layer_groups(inner)]
    prefixes: list[str] = []
    for name, child in network.named_children():
        if not _has_parameters(child):
            continue
        if name in CONTAINERS and isinstance(child, nn.Sequential | nn.ModuleList):
            prefixes += [
                f"{name}.{key}" for key, part in child.named_children() if _has_parameters(part)
            ]
        else:
            prefixes.append(name)
    auxiliary = [name for name in prefixes if name.lower().startswith("aux")]
    heads = [name for name in prefixes if _is_named_head(network, name)]
    groups: list[list[str]] = []
    for name in prefixes:
        if name in heads:
            continue
        if groups and isinstance(network.get_submodule(name), NORMS):
            groups[-1].append(name)  # a norm belongs to what it normalises
        elif name not in auxiliary:
            groups.append([name])
    if not heads:
        heads = groups.pop()
    return [*groups, [*heads, *auxiliary]]


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _is_named_head(network: nn.Module, prefix: str) -> bool:
    """Whether timm's configuration of a network names a classifier that is here, or below."""
    config = getattr(network, "pretrained_cfg", None) or {}
    known = config.get("classifier") or () if hasattr(config, "get") else ()
    names = (known,) if isinstance(known, str) else known
    return any(name == prefix or name.startswith(f"{prefix}.") for name in names)


def head_prefixes(network: nn.Module) -> list[str]:
    """Names of the modules that depend on the classes."""
    return layer_groups(network)[-1]


def layer_group_of(network: nn.Module) -> dict[str, int]:
    """The group of each parameter, 0 being the input's; those of no module are in group 0."""
    owners = {prefix: i for i, group in enumerate(layer_groups(network)) for prefix in group}

    def group_of(name: str) -> int:
        hits = [i for prefix, i in owners.items() if name.startswith(prefix + ".")]
        return max(hits, default=0)

    return {name: group_of(name) for name, _ in network.named_parameters()}
