"""Probes that take too much: memory, disk, names, output, time."""

from __future__ import annotations

from dataclasses import replace

from tests.jail.probe import SMALL, Probe

AMOUNTS = [
    Probe(
        name="memory bomb",
        code="""
kept = []
for _ in range(100):
    kept.append(bytearray(4_000_000))
    time.sleep(0.005)
time.sleep(20)
""",
        ended=("out_of_memory",),
        reason="MB of memory",
        everywhere=True,
    ),
    Probe(
        name="shared memory bomb",
        code="""
import mmap
kept = []
for _ in range(100):
    kept.append(mmap.mmap(-1, 4_000_000))
    kept[-1].write(bytes(4_000_000))
    time.sleep(0.005)
time.sleep(20)
""",
        ended=("out_of_memory",),
        reason="MB of memory",
        everywhere=True,
    ),
    Probe(
        name="one huge allocation",
        code="""
def huge():
    try:
        bytearray(10**12)
    except MemoryError:
        raise OSError from None
tried('a terabyte', huge)
""",
        everywhere=True,
    ),
    Probe(
        name="one huge file",
        code="""
tried('by writing', lambda: open('big', 'wb').write(bytes(20_000_000)))
tried('by its length', lambda: os.truncate('big', 2**40))
tried('by reserving', lambda: os.posix_fallocate(os.open('big', os.O_RDWR), 0, 20_000_000))
if os.path.getsize('big') > 4 * 2**20:
    print('through: the file is too large')
""",
        everywhere=True,
    ),
    Probe(
        name="fills the disk",
        code="""
for number in range(25):
    open(str(number), 'wb').write(bytes(4_000_000))
    time.sleep(0.02)
time.sleep(20)
""",
        ended=("stopped",),
        reason="MB into its folder",
        everywhere=True,
    ),
    Probe(
        name="fills the disk with files without a name",
        code="""
LIBC.prctl(4, 0, 0, 0, 0)  # what is not dumpable cannot be looked into
kept = []
for number in range(25):
    kept.append(open('file', 'wb', buffering=0))
    os.unlink('file')
    kept[-1].write(bytes(4_000_000))
    time.sleep(0.02)
time.sleep(20)
""",
        ended=("stopped",),
        reason="MB into its folder",
        everywhere=True,
    ),
    Probe(
        name="fills the disk with names",
        code="""
for number in range(4500):
    os.symlink('x', str(number))
time.sleep(20)
""",
        ended=("stopped",),
        reason="more than 4000 files",
        everywhere=True,
    ),
    Probe(
        name="hides files from the count",
        code="""
for _ in range(40):
    os.mkdir('x')
    os.chdir('x')
time.sleep(20)
""",
        ended=("stopped",),
        reason="cannot be counted",
        everywhere=True,
    ),
    Probe(
        name="floods its output",
        code="""
for number in range(50_000): print('x' * 40, number)
print('last', file=sys.stderr)
""",
        everywhere=True,
    ),
    Probe(
        name="never ends",
        code="""
import signal
for number in set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
time.sleep(20)
""",
        ended=("timed_out",),
        reason="ran ",
        limits=replace(SMALL, wall_s=0.6),
        everywhere=True,
    ),
    Probe(
        name="burns time",
        code="os.fork()\nwhile True: pass",
        ended=("timed_out",),
        reason="CPU-seconds",
        limits=replace(SMALL, cpu_s=0.6),
        everywhere=True,
    ),
]
