"""What the console of a dead domain tells: function, module, kind of death; and the records that are kept."""

import datetime
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nooks.failure import postmortem
from nooks.failure.oops import LONGEST_TEXT, MOST_FRAMES, Oops, parse, printable
from nooks.failure.panic import PanicDetector, classify, explained
from nooks.failure.report import FailureReport, Reason
from nooks.host.errors import StateError

PAGE_FAULT = """\
[    2.871023] e1000: nic0 NIC Link is Up 1000 Mbps Full Duplex, Flow Control: RX
[   14.201337] BUG: kernel NULL pointer dereference, address: 0000000000000008
[   14.201344] #PF: supervisor read access in kernel mode
[   14.201346] #PF: error_code(0x0000) - not-present page
[   14.201349] PGD 0 P4D 0
[   14.201355] Oops: 0000 [#1] PREEMPT SMP NOPTI
[   14.201361] CPU: 0 PID: 9 Comm: ksoftirqd/0 Not tainted 6.1.0-18-amd64 #1  Debian 6.1.76-1
[   14.201366] Hardware name: QEMU Standard PC (i440FX + PIIX, 1996), BIOS 0.0.0 02/06/2015
[   14.201368] RIP: 0010:e1000_clean+0x1f2/0x8d0 [e1000]
[   14.201381] Code: 48 8b 45 10 48 85 c0 0f 84 00 00 00 00
[   14.201385] RSP: 0018:ffffa0e5c0003e80 EFLAGS: 00010246
[   14.201402] Call Trace:
[   14.201404]  <IRQ>
[   14.201407]  __napi_poll+0x2a/0x160
[   14.201413]  net_rx_action+0x29c/0x350
[   14.201417]  ? handle_irq_event+0x4e/0x90
[   14.201420]  __do_softirq+0xca/0x2ad
[   14.201440]  </IRQ>
[   14.201444] RIP: 0033:0x7f2b1ee4c1c7
[   14.201470] Modules linked in: act_mirred cls_matchall sch_ingress e1000 virtio_net
[   14.201500] ---[ end trace 0000000000000000 ]---
[   14.201502] RIP: 0010:later_function+0x1/0x2 [other]
[   14.201600] Kernel panic - not syncing: Fatal exception in interrupt
[   14.201700] Kernel Offset: 0x1a00000 from 0xffffffff81000000 (relocation range: ...)
[   14.201701] ---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---
"""
WILD_JUMP = """\
BUG: unable to handle page fault for address: ffffffffc0de0000
#PF: supervisor instruction fetch in kernel mode
Oops: 0010 [#1] PREEMPT SMP NOPTI
RIP: 0010:0xffffffffc0de0000
Code: Unable to access opcode bytes at 0xffffffffc0ddffd6.
Call Trace:
 <TASK>
 ? pcnet32_suspect+0x10/0x20 [pcnet32]
 pcnet32_poll+0x4c/0x990 [pcnet32]
 __napi_poll+0x2a/0x160
 </TASK>
Kernel panic - not syncing: Fatal exception
"""
I386 = """\
[    9.1] BUG: kernel NULL pointer dereference, address: 00000000
[    9.1] Oops: 0002 [#1] PREEMPT SMP
[    9.1] EIP: snd_sb16_playback_trigger+0x4b/0xc0 [snd_sb16_dsp]
[    9.1] EAX: 00000000 EBX: c1c7f000 ECX: 00000000 EDX: 00000000
[    9.1] Call Trace:
[    9.1]  snd_pcm_do_start+0x25/0x40 [snd_pcm]
[    9.1] Kernel panic - not syncing: Fatal exception
"""
GENERAL_PROTECTION = """\
<4>[   3.1] general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1] PREEMPT SMP
<4>[   3.1] RIP: 0010:e100_poll+0x8f/0x6b0 [e100(OE)]
<4>[   3.1][  T12] Call Trace:
<4>[   3.1][  T12]  e100_intr+0x1/0x2 [e100 0123456789abcdef]
<0>[   3.1] Kernel panic - not syncing: Fatal exception in interrupt
"""
BUG_ON = """\
kernel BUG at drivers/net/ethernet/intel/e100.c:1234!
invalid opcode: 0000 [#1] PREEMPT SMP NOPTI
RIP: 0010:e100_hw_init+0x5/0x20 [e100]
Kernel panic - not syncing: Fatal exception
"""
IN_THE_KERNEL = """\
BUG: unable to handle page fault for address: 0000123400005678
Oops: 0000 [#1] PREEMPT SMP NOPTI
RIP: 0010:memcpy_erms+0x6/0x10
Call Trace:
 skb_copy_bits+0x5d/0x240
Kernel panic - not syncing: Fatal exception
"""
OUT_OF_MEMORY = """\
[   20.0] agent invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0
[   20.0] Call Trace:
[   20.0]  <TASK>
[   20.0]  dump_stack_lvl+0x44/0x5c
[   20.0] Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled
"""
INIT_KILLED = """\
Out of memory: Killed process 1 (agent) total-vm:123kB, anon-rss:99kB
Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009
"""
SOFT_LOCKUP = """\
[   40.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [agent:1]
[   40.0] RIP: 0010:e1000_watchdog+0x3f/0x5a0 [e1000]
[   40.0] Call Trace:
[   40.0]  process_one_work+0x1c7/0x380
[   40.0] Kernel panic - not syncing: softlockup: hung tasks
"""
HUNG_TASK = """\
[  130.0] INFO: task kworker/0:1:12 blocked for more than 60 seconds.
[  130.0] Kernel panic - not syncing: hung_task: blocked tasks
"""
SYSRQ = """\
[    5.0] sysrq: Trigger a crash
[    5.0] Kernel panic - not syncing: sysrq triggered crash
[    5.0] CPU: 0 PID: 1 Comm: agent Not tainted 6.1.0-18-amd64 #1  Debian 6.1.76-1
[    5.0] Call Trace:
[    5.0]  <TASK>
[    5.0]  dump_stack_lvl+0x44/0x5c
[    5.0]  panic+0x118/0x2ed
[    5.0]  sysrq_handle_crash+0x16/0x20
[    5.0] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---
"""


@pytest.mark.parametrize(
    ("console", "reason", "function", "module", "headline"),
    [
        (PAGE_FAULT, Reason.OOPS, "e1000_clean", "e1000", "BUG: kernel NULL pointer dereference"),
        (WILD_JUMP, Reason.OOPS, "pcnet32_poll", "pcnet32", "BUG: unable to handle page fault"),
        (I386, Reason.OOPS, "snd_sb16_playback_trigger", "snd_sb16_dsp", "BUG: kernel NULL pointer dereference"),
        (GENERAL_PROTECTION, Reason.OOPS, "e100_poll", "e100", "general protection fault"),
        (BUG_ON, Reason.OOPS, "e100_hw_init", "e100", "kernel BUG at drivers/net"),
        (IN_THE_KERNEL, Reason.OOPS, "memcpy_erms", "", "BUG: unable to handle page fault"),
        (OUT_OF_MEMORY, Reason.MEMORY, "", "", "agent invoked oom-killer"),
        (INIT_KILLED, Reason.MEMORY, "", "", "Out of memory: Killed process 1"),
        (SOFT_LOCKUP, Reason.PANIC, "e1000_watchdog", "e1000", "watchdog: BUG: soft lockup"),
        (HUNG_TASK, Reason.PANIC, "", "", "INFO: task kworker"),
        (SYSRQ, Reason.PANIC, "", "", "Kernel panic: sysrq triggered crash"),
        ("", Reason.PANIC, "", "", ""),
    ],
)
def test_kinds_of_death(console: str, reason: Reason, function: str, module: str, headline: str) -> None:
    for text in (console, console.encode(), console.replace("\n", "\r\n")):
        oops = parse(text)
        assert classify(oops) is reason
        assert (oops.function, oops.module) == (function, module)
        assert oops.headline.startswith(headline)


def test_the_report_begins_and_ends_where_it_should() -> None:
    oops = parse("harmless\n" + PAGE_FAULT + "[   15.0] Rebooting in 1 seconds..\nmore\n")
    assert oops.lines[0] == "BUG: kernel NULL pointer dereference, address: 0000000000000008"
    assert oops.lines[-1].startswith("---[ end Kernel panic")
    assert oops.panic == "Fatal exception in interrupt"
    assert oops.pointer == "RIP: 0010:e1000_clean+0x1f2/0x8d0 [e1000]"
    assert oops.trace[:2] == ("__napi_poll+0x2a/0x160", "net_rx_action+0x29c/0x350")


def test_a_healthy_console_has_no_oops() -> None:
    assert parse("[    1.0] Linux version 6.1\n[    2.0] e1000: nic0 NIC Link is Up\n") == Oops()


@given(st.one_of(st.binary(max_size=3000), st.text(max_size=3000)))
def test_any_bytes_are_survived_and_made_printable(console: bytes | str) -> None:
    parse(console)
    assert all(c == "\n" or c.isprintable() for c in printable(console))


def test_hostile_consoles_are_bounded() -> None:
    endless = "BUG: x\n" + " f+0x1/0x2 [m]\n" * 100_000
    oops = parse(endless + "y" * 1_000_000)
    assert len(printable(endless)) <= LONGEST_TEXT
    assert len(oops.trace) <= MOST_FRAMES
    assert sum(map(len, oops.lines)) < 60_000


def test_panic_detector_judges_the_machines_events() -> None:
    detector = PanicDetector()
    assert detector.event("GUEST_PANICKED", {}, 1.0, SYSRQ) is None
    detector.begin(4)
    assert detector.event("RESUME", {}, 1.0, "") is None
    report = detector.event("GUEST_PANICKED", {"action": "pause"}, 2.0, PAGE_FAULT, age_seconds=0.25)
    assert report is not None
    assert (report.incarnation, report.reason, report.noticed_at) == (4, Reason.OOPS, 2.0)
    assert report.stopped_at == 1.75
    assert report.detail["module"] == "e1000"
    assert detector.event("SHUTDOWN", {}, 3.0, "") is None


@pytest.mark.parametrize("name", ["SHUTDOWN", "RESET", "WATCHDOG"])
def test_an_unexpected_end_is_an_exit_and_an_expected_one_is_not(name: str) -> None:
    detector = PanicDetector()
    detector.begin(4)
    report = detector.event(name, {"guest": True, "reason": "guest-reset" * 99, "deep": {}}, 1.0, "")
    assert report is not None
    assert report.reason is Reason.EXIT
    assert report.detail["guest"] is True
    assert report.stopped_at is None
    assert len(report.detail["reason"]) <= 80
    detector.begin(5)
    detector.end()
    assert detector.event(name, {}, 1.0, "") is None


def test_a_heart_that_stopped_while_the_kernel_was_reporting_an_oops_died_of_the_oops() -> None:
    silence = FailureReport(4, Reason.HEARTBEAT, 1.0, "heartbeat", {"run_seconds": 0.2})
    begun = PAGE_FAULT[: PAGE_FAULT.index("Call Trace")]
    report = explained(silence, begun)
    assert report.reason is Reason.OOPS
    assert report.detail == {
        "run_seconds": 0.2,
        "oops": "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "function": "e1000_clean",
        "module": "e1000",
    }
    assert explained(silence, "[    1.0] WARNING: it is warm\n") == silence


def record(incarnation: int, console: str = PAGE_FAULT) -> postmortem.Postmortem:
    report = FailureReport(incarnation, Reason.OOPS, 1.0, "machine", {"oops": "x"})
    return postmortem.build("nic0", report, console, now=lambda: datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))


def test_store_and_load(tmp_path: Path) -> None:
    path = postmortem.store(record(3), tmp_path)
    assert path == tmp_path / "nic0" / "postmortem" / "3.json"
    assert path is not None
    document = json.loads(path.read_text())
    assert {"nook", "incarnation", "reason", "function", "module", "console"} <= set(document)
    assert document["module"] == "e1000"
    assert "Kernel panic" in document["console"]
    assert postmortem.load("nic0", 3, tmp_path) == record(3)
    assert postmortem.read("nic0", None, tmp_path) == document


def test_the_last_fifty_are_kept_and_the_latest_is_found(tmp_path: Path) -> None:
    for number in range(1, 61):
        path = postmortem.store(record(number, ""), tmp_path)
        assert path is not None
        os.utime(path, (number, number))
    stored = {int(path.stem) for path in (tmp_path / "nic0" / "postmortem").iterdir()}
    assert stored == set(range(11, 61))
    assert postmortem.load("nic0", directory=tmp_path).incarnation == 60
    postmortem.store(record(11, "started anew"), tmp_path)
    assert postmortem.load("nic0", directory=tmp_path).console == "started anew"


def test_missing_and_damaged_records_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="has not failed yet"):
        postmortem.load("nic0", directory=tmp_path)
    path = postmortem.store(record(3), tmp_path)
    assert path is not None
    with pytest.raises(StateError, match="there are 3"):
        postmortem.load("nic0", 2, tmp_path)
    path.write_text("{")
    with pytest.raises(StateError, match="can't be read"):
        postmortem.load("nic0", 3, tmp_path)


def test_a_record_that_cannot_be_written_is_not_fatal(tmp_path: Path) -> None:
    (tmp_path / "nic0").write_text("")
    assert postmortem.store(record(3), tmp_path) is None
