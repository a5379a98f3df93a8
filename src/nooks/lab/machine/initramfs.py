"""The first steps inside a lab machine: from an empty kernel to the host's root file system and a Python in it.

A shell script with the host's own programs, as ``lab.bare_guest`` has it; then ``inside`` takes over as process 1.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import nooks
from nooks.image.kernel import Kernel
from nooks.lab import bare_guest
from nooks.lab.machine.arguments import CACHE_TAG, ROOT_TAG
from nooks.lab.machine.wire import JOB

MODULES = ("virtio_ring", "virtio", "virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console")
PROGRAMS = ("sh", "mount", "insmod", "switch_root", "mkdir", "ln", "cp")
SOURCE = Path(nooks.__file__).parent.parent
"""The directory to import ``nooks`` from; it is at the same place inside."""

TRANSFER_BYTES = 512_000
"""What one 9p request may carry: the most that Linux takes over virtio."""

FOLDERS = ("/lower", "/upper", "/root", "/whole")
_HIDDEN = ("/tmp", "/run", "/dev", "/proc", "/sys")

_INIT = f"""#!/bin/sh
export PATH=/bin
mount -n -t proc proc /proc
mount -n -t sysfs sysfs /sys
mount -n -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
share="trans=virtio,version=9p2000.L,msize={TRANSFER_BYTES},access=any"
mount -n -t 9p -o "ro,cache=loose,$share" {ROOT_TAG} /lower || exit
mount -n -t tmpfs -o mode=755,size=75% upper /upper
mkdir /upper/data /upper/work
mount -n -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /root || exit
mount -n --bind /root /whole
mount -n --move /dev /root/dev
mount -n --move /proc /root/proc
mount -n --move /sys /root/sys
cd /root
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mkdir dev/pts dev/shm
mount -n -t devpts -o mode=620,gid=5,ptmxmode=666 devpts dev/pts
mount -n -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
mount -n -t tmpfs -o mode=755,nosuid,nodev run run
mount -n -t tmpfs -o mode=1777,nosuid,nodev tmp tmp
mount -n -t cgroup2 cgroup sys/fs/cgroup
mount -n -t debugfs debugfs sys/kernel/debug
mkdir run/lock run/nooks-lab
cp {JOB} run/nooks-lab/job.json
while read -r place; do
    mkdir -p "/root$place"
    mount -n --bind "/whole$place" "/root$place"
done < /nooks-lab/kept
read -r cache < /nooks-lab/cache
mkdir -p "/root$cache"
mount -n -t 9p -o "rw,cache=mmap,$share" {CACHE_TAG} "/root$cache" || exit
read -r kernel < /nooks-lab/kernel
mkdir -p lib/modules boot
ln -sfn "$(read -r line < /nooks-lab/modules; echo "$line")" "lib/modules/$kernel"
ln -sfn "$(read -r line < /nooks-lab/vmlinux; echo "$line")" "boot/vmlinux-$kernel"
exec switch_root /root {{python}} -ISB -X utf8 -c "$(read -r line < /nooks-lab/program; echo "$line")"
"""


def build(file: BinaryIO, kernel: Kernel, job: Mapping[str, Any], cache: Path, needed: Iterable[Path]) -> None:
    """Write the archive to a binary file.

    ``cache`` is the product's cache; ``needed`` are directories that must be there inside, wherever they are.
    Raises MachineError if a program is missing.
    """
    interpreter = Path(sys.executable).resolve()
    program = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from nooks.lab.machine.inside import main; main()"
    facts = {
        "kept": "".join(f"{path}\n" for path in kept([*needed, interpreter.parent, Path(sys.base_prefix), SOURCE])),
        "cache": f"{cache}\n",
        "kernel": f"{kernel.version}\n",
        "modules": f"{kernel.modules}\n",
        "vmlinux": f"{kernel.vmlinux}\n",
        "program": f"{program}\n",
    }
    init = _INIT.replace("{python}", str(interpreter))
    texts = {f"/nooks-lab/{name}": os.fsencode(text) for name, text in facts.items()}
    texts[JOB] = json.dumps(job).encode()
    bare_guest.build(file, init, PROGRAMS, bare_guest.code_of(kernel, MODULES), folders=FOLDERS, texts=texts)


def kept(paths: Iterable[Path]) -> list[Path]:
    """Those directories that the lab's own file systems (/tmp, /run) would hide; what is in /proc stays hidden."""
    found = {path for path in paths if path.parts[:2] in (("/", "tmp"), ("/", "run")) and len(path.parts) > 2}
    return sorted(path for path in found if not found.intersection(path.parents))
