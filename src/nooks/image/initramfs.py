"""Images: the initramfs of a domain, with the agent, the interpreter that runs it, and a driver's modules.

Layout in the guest: /init starts the agent; /modules has the modules by name and two lists of them in insertion
order, ``base.list`` (what every domain needs) and ``driver.list``; /crash has modules that fail on purpose.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nooks
from nooks.host import cache
from nooks.host.errors import InputError
from nooks.image import kernel as kernels
from nooks.image import kernel_trees, mover_program
from nooks.image import userland as userlands
from nooks.image.kernel import FLAVOURS, Kernel
from nooks.image.modules import Module, ModuleTree
from nooks.image.payload import AGENT, Payload
from nooks.image.progress import Progress, quiet

_KIND = "images"
ARCHIVE = "initramfs.cpio"
FACTS = "image.json"
REQUIRED_MODULES = ("virtio_ring", "virtio", "virtio_pci", "virtio_console")
"""Without these a domain can't speak. The ring comes first: the bus wants it, though nothing says so."""

USEFUL_MODULES = (
    *("virtio_net", "sch_ingress", "cls_matchall", "act_mirred", "8021q"),  # the data path of a network nook
    *("pvpanic_mmio", "pvpanic_pci"),  # tells the host of a panic
)
"""Present in every image of a kernel that has them."""

_KEEP = 12
_UNUSED_SECONDS = 3 * 24 * 3600.0


@dataclass(frozen=True)
class Image:
    """What a domain boots: a kernel and an initramfs made for it."""

    kernel: Kernel
    initramfs: Path
    digest: str
    """Changes with the content of the initramfs or the kernel."""
    base_order: tuple[str, ...]
    """File names under /modules of what every domain needs, in insertion order."""
    load_order: tuple[str, ...]
    """File names under /modules of the driver's modules, in insertion order, without those in ``base_order``."""


def build(
    kernel: Kernel,
    modules: Sequence[str],
    *,
    firmware: Sequence[str] = (),
    progress: Progress = quiet,
    payload: Payload = AGENT,
    moving: bool = False,
) -> Image:
    """The image with ``modules`` and everything that they depend on; made unless it is in the cache.

    ``firmware`` names files below /lib/firmware of the kernel's directory or of the host; ``moving`` is for images of
    disks, and adds the program that moves their data, where there is a compiler for it. Raises InputError if the
    kernel lacks a module, NooksError if a part can't be had.
    """
    architecture = FLAVOURS[kernel.flavour].architecture
    userland = userlands.resolve(architecture, progress)
    sources = payload.digest() + _own_digest() + (mover_program.digest(architecture) if moving else "")
    parts = [kernel.digest, list(modules), list(firmware), userland.digest, sources, module_states(kernel, modules)]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]
    place = cache.find(_KIND, key)
    if place is None:
        from nooks.image.recipe import Recipe  # brings pyelftools and more; not needed while all is cached

        recipe = Recipe(kernels.whole(kernel, progress), userlands.whole(userland, progress), payload, progress)
        place = cache.entry(_KIND, key, lambda folder: recipe.make(folder, modules, firmware, moving=moving))
        cache.prune(_KIND, keep=_KEEP, unused_seconds=_UNUSED_SECONDS)
    cache.touch(place)
    facts = json.loads((place / FACTS).read_bytes())
    return Image(
        kernel=kernel,
        initramfs=place / ARCHIVE,
        digest=facts["digest"],
        base_order=tuple(facts["base_order"]),
        load_order=tuple(facts["load_order"]),
    )


def module_states(kernel: Kernel, names: Sequence[str]) -> list[str]:
    """What changes with the modules of an image, where the kernel is a directory's: a developer may replace one.

    Raises InputError for a module that the kernel lacks.
    """
    if not kernel.origin:
        return []
    tree = ModuleTree(kernel.modules, kernel.version)
    return [kernel_trees.state_of(module.path) for module in (*base_modules(tree), *tree.closure(names))]


def base_modules(tree: ModuleTree) -> list[Module]:
    """What every domain needs, in the order in which to insert it. Raises InputError if the kernel lacks it."""
    for name in REQUIRED_MODULES:
        if not tree.has(name):
            raise InputError(f"kernel {tree.version} can't run a domain: it has no {name}", "use another kernel")
    return tree.closure([*REQUIRED_MODULES, *(name for name in USEFUL_MODULES if tree.has(name))])


def _own_digest() -> str:
    """Of this room's own code, so that a change of it makes new images."""
    digest = hashlib.sha256()
    for path in sorted(Path(nooks.__path__[0], "image").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
