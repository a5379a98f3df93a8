"""PipeWire's client library, as far as a sink or source of our own needs it: its C functions and structs by ctypes.

Source: PipeWire 0.3's public headers pipewire/stream.h, pipewire/loop.h, spa/buffer/buffer.h, spa/support/loop.h,
spa/param/format.h and spa/pod/pod.h, which later versions keep. Nothing here knows nooks.
"""

import ctypes
import struct
import time
from collections.abc import Callable, Sequence
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_bool,
    c_char,
    c_char_p,
    c_double,
    c_int,
    c_int32,
    c_int64,
    c_uint32,
    c_uint64,
    c_void_p,
)
from enum import IntEnum

from nooks.host.errors import MachineError

LIBRARY = "libpipewire-0.3.so.0"

INPUT, OUTPUT = 0, 1
UNCONNECTED, STREAMING = 0, 3
"""Of enum pw_stream_state; errors are below, connecting and pausing between."""
ANY = 0xFFFFFFFF
FLAG_MAP_BUFFERS, FLAG_DRIVER = 1 << 2, 1 << 3
SAMPLE_FORMATS = {"u8": 0x102, "s16le": 0x103, "s32le": 0x10B, "s24le": 0x10F}
"""PulseAudio's names to numbers of enum spa_audio_format."""

_EVENTS_VERSION = 2
_IO_POSITION = 7
_SPA_TYPE_ID, _SPA_TYPE_INT, _SPA_TYPE_ARRAY, _SPA_TYPE_OBJECT = 3, 4, 13, 15
_OBJECT_FORMAT, _PARAM_ENUM_FORMAT = 0x40003, 3
_FORMAT_MEDIA_TYPE, _FORMAT_MEDIA_SUBTYPE, _MEDIA_AUDIO, _SUBTYPE_RAW = 1, 2, 1, 1
_POSITIONS = {1: (2,), 2: (3, 4), 4: (3, 4, 7, 8), 6: (3, 4, 5, 6, 7, 8)}
"""enum spa_audio_channel: mono; left and right; with rear ones; with centre and low frequencies."""


class _AudioKey(IntEnum):
    FORMAT = 0x10001
    RATE = 0x10003
    CHANNELS = 0x10004
    POSITION = 0x10005


class _Interface(ctypes.Structure):
    _fields_ = [("type", c_char_p), ("version", c_uint32), ("methods", c_void_p), ("object", c_void_p)]


class _Loop(ctypes.Structure):
    _fields_ = [("system", c_void_p), ("loop", c_void_p), ("control", POINTER(_Interface)), ("utils", c_void_p)]


class _LoopControl(ctypes.Structure):
    _fields_ = [
        ("version", c_uint32),
        ("get_fd", CFUNCTYPE(c_int, c_void_p)),
        ("add_hook", c_void_p),
        ("enter", CFUNCTYPE(None, c_void_p)),
        ("leave", CFUNCTYPE(None, c_void_p)),
        ("iterate", CFUNCTYPE(c_int, c_void_p, c_int)),
    ]


class _Chunk(ctypes.Structure):
    _fields_ = [("offset", c_uint32), ("size", c_uint32), ("stride", c_int32), ("flags", c_int32)]


class _Data(ctypes.Structure):
    _fields_ = [
        ("type", c_uint32),
        ("flags", c_uint32),
        ("fd", c_int64),
        ("mapoffset", c_uint32),
        ("maxsize", c_uint32),
        ("data", c_void_p),
        ("chunk", POINTER(_Chunk)),
    ]


class _SpaBuffer(ctypes.Structure):
    _fields_ = [("n_metas", c_uint32), ("n_datas", c_uint32), ("metas", c_void_p), ("datas", POINTER(_Data))]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("buffer", POINTER(_SpaBuffer)),
        ("user_data", c_void_p),
        ("size", c_uint64),
        ("requested", c_uint64),
    ]


class _Clock(ctypes.Structure):
    """struct spa_io_clock, with which a struct spa_io_position begins."""

    _fields_ = [
        ("flags", c_uint32),
        ("id", c_uint32),
        ("name", c_char * 64),
        ("nsec", c_uint64),
        ("rate_numerator", c_uint32),
        ("rate_denominator", c_uint32),
        ("position", c_uint64),
        ("duration", c_uint64),
        ("delay", c_int64),
        ("rate_diff", c_double),
        ("next_nsec", c_uint64),
    ]


_StateChanged = CFUNCTYPE(None, c_void_p, c_int, c_int, c_char_p)
_IoChanged = CFUNCTYPE(None, c_void_p, c_uint32, c_void_p, c_uint32)
_Process = CFUNCTYPE(None, c_void_p)


class _Events(ctypes.Structure):
    _fields_ = [
        ("version", c_uint32),
        ("destroy", c_void_p),
        ("state_changed", _StateChanged),
        ("control_info", c_void_p),
        ("io_changed", _IoChanged),
        ("param_changed", c_void_p),
        ("add_buffer", c_void_p),
        ("remove_buffer", c_void_p),
        ("process", _Process),
        ("drained", c_void_p),
        ("command", c_void_p),
        ("trigger_done", _Process),
    ]


_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "pw_init": (None, [c_void_p, c_void_p]),
    "pw_main_loop_new": (c_void_p, [c_void_p]),
    "pw_main_loop_get_loop": (c_void_p, [c_void_p]),
    "pw_properties_new_string": (c_void_p, [c_char_p]),
    "pw_stream_new_simple": (c_void_p, [c_void_p, c_char_p, c_void_p, c_void_p, c_void_p]),
    "pw_stream_connect": (c_int, [c_void_p, c_int, c_uint32, c_int, c_void_p, c_uint32]),
    "pw_stream_dequeue_buffer": (c_void_p, [c_void_p]),
    "pw_stream_queue_buffer": (c_int, [c_void_p, c_void_p]),
    "pw_stream_trigger_process": (c_int, [c_void_p]),
    "pw_stream_is_driving": (c_bool, [c_void_p]),
}


def library() -> ctypes.CDLL:
    """PipeWire's client library, ready to be used. Raises MachineError if it is missing."""
    try:
        loaded = ctypes.CDLL(LIBRARY)
    except OSError:
        raise MachineError(f"{LIBRARY} is missing", "apt-get install libpipewire-0.3-0") from None
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    loaded.pw_init(None, None)
    return loaded


class MainLoop:
    """PipeWire's event loop, for somebody who has one of his own: ``run`` when ``descriptor`` is readable."""

    def __init__(self, pipewire: ctypes.CDLL) -> None:
        self._main: int = pipewire.pw_main_loop_new(None)
        self.address: int = pipewire.pw_main_loop_get_loop(self._main)
        interface = ctypes.cast(self.address, POINTER(_Loop)).contents.control.contents
        self._control = ctypes.cast(interface.methods, POINTER(_LoopControl)).contents
        self._object: int = interface.object
        self._control.enter(self._object)
        self.descriptor: int = self._control.get_fd(self._object)

    def run(self) -> None:
        """Do what is to be done, without waiting."""
        self._control.iterate(self._object, 0)


class Stream:
    """A sink (``direction`` INPUT) or a source (OUTPUT) that drives PipeWire's graph: a cycle for each ``trigger``.

    ``process`` is called when a buffer may be taken, ``cycled`` when the graph has run, ``changed`` with each new state
    and what is wrong, if anything.
    """

    def __init__(
        self,
        pipewire: ctypes.CDLL,
        loop: MainLoop,
        properties: str,
        *,
        process: Callable[[], None],
        cycled: Callable[[], None],
        changed: Callable[[int, str], None],
    ) -> None:
        self._pipewire = pipewire
        self._clock: _Clock | None = None
        self._buffer: int | None = None

        def state_changed(data: int, old: int, new: int, error: bytes | None) -> None:
            del data, old
            changed(new, (error or b"").decode(errors="replace"))

        def may_process(data: int) -> None:
            del data
            process()

        def trigger_done(data: int) -> None:
            del data
            cycled()

        def io_changed(data: int, number: int, area: int | None, size: int) -> None:
            del data
            if number == _IO_POSITION:
                there = area is not None and size >= ctypes.sizeof(_Clock)
                self._clock = ctypes.cast(area or 0, POINTER(_Clock)).contents if there else None

        self._events = _Events(
            version=_EVENTS_VERSION,
            state_changed=_StateChanged(state_changed),
            io_changed=_IoChanged(io_changed),
            process=_Process(may_process),
            trigger_done=_Process(trigger_done),
        )
        owned: int = pipewire.pw_properties_new_string(properties.encode())
        self._stream: int = pipewire.pw_stream_new_simple(
            loop.address, b"nooks", owned, ctypes.byref(self._events), None
        )

    def connect(self, direction: int, sample_format: str, rate: int, channels: int) -> None:
        """Appear in the graph. Raises MachineError."""
        pod = audio_format(SAMPLE_FORMATS[sample_format], rate, channels)
        content = ctypes.create_string_buffer(pod, len(pod))
        parameters = (c_void_p * 1)(ctypes.addressof(content))
        flags = FLAG_MAP_BUFFERS | FLAG_DRIVER
        result: int = self._pipewire.pw_stream_connect(self._stream, direction, ANY, flags, parameters, 1)
        if result < 0:
            raise MachineError(f"PipeWire refuses a stream (error {-result})", "is it running?")

    def trigger(self) -> None:
        """Let the graph run one cycle, which begins now (as other drivers do, we keep the graph's clock)."""
        clock = self._clock
        if clock is not None and clock.rate_denominator:
            now = time.monotonic_ns()
            clock.nsec = now
            clock.position += clock.duration
            clock.rate_diff = 1.0
            clock.next_nsec = now + clock.duration * 1_000_000_000 // clock.rate_denominator
        self._pipewire.pw_stream_trigger_process(self._stream)

    def take(self) -> bytes | None:
        """What applications have played in this cycle; None if there is nothing."""
        address = self._pipewire.pw_stream_dequeue_buffer(self._stream)
        if not address:
            return None
        data = _first_data(address)
        chunk = data.chunk.contents
        offset = min(chunk.offset, data.maxsize)
        played = ctypes.string_at(data.data + offset, min(chunk.size, data.maxsize - offset))
        self._pipewire.pw_stream_queue_buffer(self._stream, address)
        return played

    def needs(self, frame_bytes: int) -> int | None:
        """How many bytes the next cycle wants of what is recorded; None if it can't be given any yet."""
        if self._buffer is None:
            self._buffer = self._pipewire.pw_stream_dequeue_buffer(self._stream) or None
        if self._buffer is None:
            return None
        wanted = ctypes.cast(self._buffer, POINTER(_Buffer)).contents.requested
        frames = wanted or (self._clock.duration if self._clock is not None else 0)
        return min(frames * frame_bytes, _first_data(self._buffer).maxsize // frame_bytes * frame_bytes)

    def give(self, samples: bytes, frame_bytes: int) -> None:
        """Put what was recorded into the next cycle, after ``needs`` said how much."""
        address, self._buffer = self._buffer, None
        assert address is not None
        data = _first_data(address)
        size = min(len(samples), data.maxsize)
        ctypes.memmove(data.data, samples, size)
        chunk = data.chunk.contents
        chunk.offset, chunk.size, chunk.stride = 0, size, frame_bytes
        self._pipewire.pw_stream_queue_buffer(self._stream, address)


def audio_format(sample_format: int, rate: int, channels: int) -> bytes:
    """Raw interleaved samples as a parameter of a stream: one object with a property for each fact."""
    position = _POSITIONS.get(channels, tuple(range(3, 3 + channels)))
    array = struct.pack("<II", 4, _SPA_TYPE_ID) + b"".join(struct.pack("<I", channel) for channel in position)
    properties = [
        (_FORMAT_MEDIA_TYPE, _SPA_TYPE_ID, struct.pack("<I", _MEDIA_AUDIO)),
        (_FORMAT_MEDIA_SUBTYPE, _SPA_TYPE_ID, struct.pack("<I", _SUBTYPE_RAW)),
        (_AudioKey.FORMAT, _SPA_TYPE_ID, struct.pack("<I", sample_format)),
        (_AudioKey.RATE, _SPA_TYPE_INT, struct.pack("<i", rate)),
        (_AudioKey.CHANNELS, _SPA_TYPE_INT, struct.pack("<i", channels)),
        (_AudioKey.POSITION, _SPA_TYPE_ARRAY, array),
    ]
    return _pod(_SPA_TYPE_OBJECT, struct.pack("<II", _OBJECT_FORMAT, _PARAM_ENUM_FORMAT) + _properties(properties))


def _properties(properties: Sequence[tuple[int, int, bytes]]) -> bytes:
    return b"".join(struct.pack("<II", key, 0) + _pod(kind, body) for key, kind, body in properties)


def _pod(kind: int, body: bytes) -> bytes:
    """A value with its size and type, padded to 8 bytes."""
    return struct.pack("<II", len(body), kind) + body + bytes(-len(body) % 8)


def _first_data(address: int) -> _Data:
    """The only block of a buffer of interleaved samples."""
    return ctypes.cast(address, POINTER(_Buffer)).contents.buffer.contents.datas[0]
