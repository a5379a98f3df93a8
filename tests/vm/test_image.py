"""Real kernels from the machine's archive, images for them, and QEMU that boots both with a stand-in for the agent."""

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from iced_x86 import Decoder, Mnemonic

from nooks.host import tsc
from nooks.image import initramfs, kernel, saboteur
from nooks.image.initramfs import Image
from nooks.image.kernel import FLAVOURS
from nooks.image.modules import ModuleTree
from nooks.image.payload import AGENT, Payload
from nooks.lab.processes import cpu_seconds

pytestmark = pytest.mark.vm

BOOT_SECONDS = 60
ARGUMENTS = (
    "console=ttyS0 quiet tsc=reliable no_timer_check mitigations=off random.trust_cpu=on cryptomgr.notests nokaslr"
    " panic=-1 oops=panic rdinit=/init"
)
STAND_IN = """
import ctypes, os, socket, sys, time

libc = ctypes.CDLL(None, use_errno=True)

def insert(path):
    fd = os.open(path, os.O_RDONLY)
    if libc.syscall(313 if sys.maxsize > 2**32 else 350, fd, b"", 0):
        print("REFUSED", path, os.strerror(ctypes.get_errno()), flush=True)
    os.close(fd)

def main():
    for kind, place in ((b"proc", b"/proc"), (b"sysfs", b"/sys"), (b"devtmpfs", b"/dev")):
        libc.mount(kind, place, kind, 0, None)
    for order in ("base", "driver"):
        for name in open(f"/modules/{order}.list").read().split():
            insert("/modules/" + name)
    print("READY", sorted(os.listdir("/sys/class/net")), flush=True)
    words = dict(word.partition("=")[::2] for word in open("/proc/cmdline").read().split())
    if "then" in words:
        insert("/crash/" + words["then"] + ".ko")
        print("SURVIVED", flush=True)
    time.sleep(1000)
"""


@dataclass
class Console:
    """A booted QEMU and what it said so far."""

    process: "subprocess.Popen[str]"
    text: str = ""

    def wait_for(self, word: str, within_seconds: float = BOOT_SECONDS) -> bool:
        """Read until ``word`` was said; False if it ended or took too long."""
        deadline = threading.Timer(within_seconds, self.process.kill)
        deadline.start()
        try:
            assert self.process.stdout is not None
            while word not in self.text:
                line = self.process.stdout.readline()
                if not line:
                    return False
                self.text += line
            return True
        finally:
            deadline.cancel()


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Payload:
    root = tmp_path_factory.mktemp("payload")
    (root / "standin").mkdir()
    (root / "standin/__init__.py").write_text("")
    (root / "standin/main.py").write_text(STAND_IN)
    return Payload(root, ("standin",), "standin.main")


@pytest.fixture(params=["amd64", "686"])
def image(request: pytest.FixtureRequest, stand_in: Payload) -> Image:
    return initramfs.build(kernel.resolve("debian", str(request.param)), ["e1000"], payload=stand_in)


@pytest.fixture
def boot() -> Iterator[list[Console]]:
    consoles: list[Console] = []
    yield consoles
    for console in consoles:
        console.process.kill()
        console.process.communicate()


def start(boot: list[Console], image: Image, extra: str = "", memory: str = "128M") -> Console:
    argv = [
        *("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-accel", "tcg", "-machine", "pc,usb=off", "-cpu", "qemu64,+rdrand", "-m", memory, "-bios", "qboot.rom"),
        *("-kernel", str(image.kernel.vmlinux), "-initrd", str(image.initramfs)),
        *("-append", f"{ARGUMENTS} {tsc.kernel_argument()} {extra}"),
        *("-serial", "stdio", "-device", "virtio-serial-pci", "-device", "e1000", "-device", "pvpanic"),
        *("-action", "panic=shutdown"),
    ]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    boot.append(Console(process))
    return boot[-1]


def test_it_boots_and_the_driver_binds(image: Image, boot: list[Console]) -> None:
    console = start(boot, image)
    assert console.wait_for("READY"), console.text
    assert "eth0" in console.text
    assert "REFUSED" not in console.text


@pytest.mark.parametrize(("flavour", "memory"), [("amd64", "96M"), ("686", "64M")])
def test_little_memory_is_enough(flavour: str, memory: str, stand_in: Payload, boot: list[Console]) -> None:
    image = initramfs.build(kernel.resolve("debian", flavour), ["e1000"], payload=stand_in)
    console = start(boot, image, "initcall_blacklist=tracer_init_tracefs", memory)
    assert console.wait_for("READY"), console.text


def test_the_oops_module_oopses_under_its_own_name(image: Image, boot: list[Console]) -> None:
    console = start(boot, image, "then=oops")
    assert console.wait_for("Kernel panic - not syncing: Fatal exception"), console.text
    assert "NULL pointer dereference, address: 0" in console.text
    assert "init_module+0x" in console.text
    assert "[nooks_oops]" in console.text
    assert "WARNING" not in console.text
    assert not console.wait_for("SURVIVED", 20)


def test_a_hang_burns_the_cpu_and_a_halt_does_not(image: Image, boot: list[Console]) -> None:
    burnt: dict[str, float] = {}
    for how in ("hang", "halt"):
        console = start(boot, image, f"then={how}")
        assert console.wait_for("READY"), console.text
        time.sleep(1)
        before = cpu_seconds(console.process.pid)
        time.sleep(2)
        burnt[how] = cpu_seconds(console.process.pid) - before
        assert not console.wait_for("SURVIVED", 0.1)
        assert "REFUSED" not in console.text
        assert "WARNING" not in console.text
    assert burnt["hang"] > 0.5
    assert burnt["halt"] < 0.2


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_crash_modules_have_the_code_they_should(flavour: str) -> None:
    found = kernel.resolve("debian", flavour)
    victim = saboteur.find_victim(ModuleTree(found.modules, found.version))
    expected = {
        "hang": [Mnemonic.CLI, Mnemonic.JMP],
        "halt": [Mnemonic.CLI, Mnemonic.HLT, Mnemonic.JMP],
        "oops": [Mnemonic.XOR, Mnemonic.MOV],
    }
    for how, code in saboteur.FAULTS.items():
        module = saboteur.sabotage(victim, code, f"nooks_{how}")
        there = module[victim.code_at : victim.code_at + len(code)]
        decoder = Decoder(FLAVOURS[flavour].bits, there)
        assert [instruction.mnemonic for instruction in decoder] == expected[how]
        assert f"name=nooks_{how}".encode() in module


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_image_of_the_agent_is_small_and_found_again(flavour: str) -> None:
    image = initramfs.build(kernel.resolve("debian", flavour), ["e1000"])
    assert image.initramfs.stat().st_size < 13_000_000
    assert image.load_order == ("e1000.ko",)
    assert image.base_order[:2] == ("virtio_ring.ko", "virtio.ko")
    assert image.initramfs.stat().st_mode & 0o777 == 0o644
    assert image.kernel.vmlinux.stat().st_mode & 0o777 == 0o644
    made = image.initramfs.stat()
    assert initramfs.build(kernel.resolve("debian", flavour), ["e1000"]) == image
    again = image.initramfs.stat()
    assert (again.st_ino, again.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_the_agent_takes_only_bytecode() -> None:
    image = initramfs.build(kernel.resolve("debian"), ["e100"])
    names = [name for name in image.initramfs.read_bytes().split(b"\0") if name.endswith((b".py", b".pyc"))]
    assert image.load_order == ("mii.ko", "e100.ko")
    assert AGENT.module == "nooks.agent.main"
    assert any(name.endswith(b"nooks/agent/main.pyc") for name in names)
    assert any(name.endswith(b"nooks/agent/network.pyc") for name in names)
    assert not any(name.startswith(b"usr/lib") and name.endswith(b".py") for name in names)
