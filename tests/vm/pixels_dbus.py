"""As much of a D-Bus peer as a viewer of QEMU's dbus display needs: see docs/interop/dbus-display
of QEMU. A viewer gives QEMU a socket, and QEMU calls it there; what a GL screen shows comes as the
device's own dmabuf, which can be mapped."""

import fcntl
import mmap
import os
import socket
import struct
import threading
from pathlib import Path

CALL, RETURN, ERROR = 1, 2, 3
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, SIGNATURE, FDS = 1, 2, 3, 4, 5, 8, 9
TYPES = {PATH: "o", INTERFACE: "s", MEMBER: "s", ERROR_NAME: "s", REPLY_SERIAL: "u", SIGNATURE: "g", FDS: "u"}
NO_REPLY = 1
XRGB8888 = 0x34325258


CREATE_DUMB, MAP_DUMB, DESTROY_DUMB = 0xC02064B2, 0xC01064B3, 0xC00464B4
PRIME_FD_TO_HANDLE, GEM_CLOSE = 0xC00C642E, 0x40086409


def padded(data, to):
    return data + bytes(-len(data) % to)


def mapped(dmabuf, stride, height):
    """A dmabuf's memory. mbochs exports it read-only, and then refuses to have it mapped, as a shared
    mapping of what can't be written is none. So vgem imports it: whoever maps vgem can write. It tells
    no offset of what is imported, but gives it the one that the same size has just left."""
    [card] = [c for c in Path("/sys/class/drm").glob("card*") if "/vgem" in str(c.resolve())]
    vgem = os.open(f"/dev/dri/{card.name}", os.O_RDWR)

    def ioctl(number, form, *values):
        return struct.unpack(form, fcntl.ioctl(vgem, number, struct.pack(form, *values)))

    try:
        dumb = ioctl(CREATE_DUMB, "6IQ", height, stride // 4, 32, 0, 0, 0, 0)[4]
        offset = ioctl(MAP_DUMB, "IIQ", dumb, 0, 0)[2]
        ioctl(DESTROY_DUMB, "I", dumb)
        handle = ioctl(PRIME_FD_TO_HANDLE, "IIi", 0, 0, dmabuf)[0]
        try:
            return mmap.mmap(vgem, stride * height, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset)
        finally:
            ioctl(GEM_CLOSE, "II", handle, 0)
    finally:
        os.close(vgem)


class Peer:
    """A connection on which the other end is the server; messages are little-endian."""

    def __init__(self, sock):
        self.sock = sock
        self.data = b""
        self.fds = []
        self.serial = 0
        # glib asks for credentials beside the first byte.
        credentials = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
        sock.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
        self.authenticate(f"AUTH EXTERNAL {str(os.getuid()).encode().hex()}", "OK")
        self.authenticate("NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD")
        sock.sendall(b"BEGIN\r\n")

    def authenticate(self, say, expected):
        self.sock.sendall(f"{say}\r\n".encode())
        while b"\r\n" not in self.data:
            self.receive()
        line, self.data = self.data.split(b"\r\n", 1)
        if line.split()[0].decode() != expected:
            raise AssertionError(f"{say}: {line!r}")

    def receive(self):
        data, fds, *_ = socket.recv_fds(self.sock, 1 << 16, 16)
        self.fds += fds
        if not data:
            raise EOFError("QEMU has closed the connection")
        self.data += data

    def need(self, size):
        while len(self.data) < size:
            self.receive()

    def read(self):
        """A message: its kind, flags, serial, header fields, and body."""
        self.need(16)
        _, kind, flags, _, body, serial, size = struct.unpack_from("<4B3I", self.data)
        start = 16 + size + -size % 8
        self.need(start + body)
        at, fields = 16, {}
        while at < 16 + size:
            at += -at % 8
            code, _, of = struct.unpack_from("<BB1s", self.data, at)
            at += 4  # code, the type's length, the type, its zero
            if of == b"g":
                length = self.data[at]
                fields[code] = self.data[at + 1 : at + 1 + length].decode()
                at += length + 2
                continue
            at += -at % 4
            (value,) = struct.unpack_from("<I", self.data, at)
            at += 4
            if of in b"so":
                value, at = self.data[at : at + value].decode(), at + value + 1
            fields[code] = value
        message = kind, flags, serial, fields, self.data[start : start + body]
        self.data = self.data[start + body :]
        return message

    def send(self, kind, fields, body=b"", flags=0, fds=()):
        header = b""
        for code, value in fields.items():
            of = TYPES[code]
            header = padded(header, 8) + struct.pack("<BB1sx", code, 1, of.encode())
            if of == "u":
                header += struct.pack("<I", value)
            else:
                text = value.encode()
                header += struct.pack("<B" if of == "g" else "<I", len(text)) + text + b"\0"
        self.serial += 1
        start = struct.pack("<4B3I", ord("l"), kind, flags, 1, len(body), self.serial, len(header))
        message = padded(start + header, 8) + body
        if fds:
            socket.send_fds(self.sock, [message], fds)
        else:
            self.sock.sendall(message)


class Screen(threading.Thread):
    """What QEMU shows a viewer of a console. shown: the last dmabuf, mapped; said: what QEMU has called, without repetition."""

    def __init__(self, fd, console=0):
        super().__init__(daemon=True)
        main = Peer(socket.socket(fileno=fd))
        ours, theirs = socket.socketpair()
        self.said = []
        self.shown = self.failed = None
        fields = {PATH: f"/org/qemu/Display1/Console_{console}", INTERFACE: "org.qemu.Display1.Console"}
        fields |= {MEMBER: "RegisterListener", SIGNATURE: "h", FDS: 1}
        main.send(CALL, fields, struct.pack("<I", 0), fds=[theirs.fileno()])
        theirs.close()
        # QEMU answers the call and then waits for the listener; a refusal comes as an answer alone.
        kind, *_, body = main.read()
        if kind != RETURN:
            raise AssertionError(f"RegisterListener: {body!r}")
        self.main = main
        self.peer = Peer(ours)
        self.start()

    def run(self):
        try:
            while True:
                kind, flags, serial, fields, body = self.peer.read()
                if kind == CALL:
                    self.called(fields, body)
                    if not flags & NO_REPLY:
                        self.answer(fields, serial)
        except (OSError, EOFError) as error:
            self.failed = error
        except Exception as error:
            self.failed = error
            raise

    def answer(self, fields, serial):
        if fields[MEMBER] == "GetAll":
            # No properties: none of the newer interfaces.
            self.peer.send(RETURN, {REPLY_SERIAL: serial, SIGNATURE: "a{sv}"}, bytes(8), NO_REPLY)
        else:
            self.peer.send(RETURN, {REPLY_SERIAL: serial}, flags=NO_REPLY)

    def called(self, fields, body):
        fds = [self.peer.fds.pop(0) for _ in range(fields.get(FDS, 0))]
        said = fields[MEMBER]
        if said == "ScanoutDMABUF":
            _, width, height, stride, fourcc, modifier = struct.unpack_from("<5I4xQ", body)
            said += f" of {width}x{height} in {struct.pack('<I', fourcc).decode()}"
            try:
                pixels = mapped(fds[0], stride, height)
            except OSError as error:
                pixels = error
            self.shown = width, height, stride, fourcc, modifier, pixels
        elif said == "Disable":
            self.shown = None
        if said not in self.said[-2:]:
            self.said.append(said)
        for fd in fds:
            os.close(fd)

    def picture(self):
        """Size and lines, each as bytes of red, green, blue."""
        if not self.shown:
            raise AssertionError(f"no dmabuf, QEMU has called {self.said}")
        width, height, stride, fourcc, modifier, pixels = self.shown
        # QEMU's own words before the guest has a picture come in a texture of Mesa's.
        if (fourcc, modifier) != (XRGB8888, 0) or isinstance(pixels, OSError):
            raise AssertionError(
                f"a dmabuf of {width}x{height}, format {fourcc:#x}, modifier {modifier:#x}: {pixels}; QEMU has called {self.said}"
            )
        rows = []
        for y in range(height):
            line = pixels[y * stride : y * stride + 4 * width]
            row = bytearray(3 * width)
            row[0::3], row[1::3], row[2::3] = line[2::4], line[1::4], line[0::4]
            rows.append(bytes(row))
        return (width, height), rows
