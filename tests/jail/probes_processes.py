"""Probes that reach for other processes, for the kernel and for credentials."""

from __future__ import annotations

from tests.jail.probe import Probe

PROCESSES = [
    Probe(
        name="looks into processes",
        code="""
for who, pid in {'supervisor': FACTS['supervisor'], 'neighbour': FACTS['neighbour'], 'guard': os.getppid()}.items():
    def of(name):
        return f'/proc/{shown(pid)}/{name}'
    for name in ('environ', 'maps', 'mem'):
        tried(f'{name} of the {who}', lambda: open(of(name), 'rb').close())
    tried(f'descriptors of the {who}', lambda: os.readlink(of('fd/1')))
    tried(f'files of the {who}', lambda: os.listdir(of('cwd/')))
def of_the_first():
    for name in ('root', 'cwd', *(f'fd/{number}' for number in os.listdir('/proc/1/fd'))):
        try:
            os.listdir(f'/proc/1/{name}{FACTS["outside"]}/home')
            return
        except OSError as error:
            refused = error
    raise refused
tried('files of the first process', of_the_first)
if os.uname().machine == 'x86_64':
    pid = FACTS['neighbour']
    tried('tracing', lambda: call(101, 0x4206, outer(pid), 0, 0))
    tried('a descriptor of another process', lambda: call(438, call(434, outer(pid), 0), 0, 0))
    tried('comparing', lambda: call(312, outer(pid), outer(FACTS['supervisor']), 0, 0, 0))
""",
    ),
    Probe(
        name="lists processes",
        code="""
def neighbour():
    if FACTS['marker'] not in open(f'/proc/{shown(FACTS["neighbour"])}/cmdline').read():
        raise OSError
tried('command line of another process', neighbour)
""",
        open_on={"landlock": ("command line of another process",)},
    ),
    Probe(
        name="signals processes",
        code="""
import signal
def owner():
    import fcntl, socket
    one, other = socket.socketpair()
    fcntl.fcntl(one, fcntl.F_SETOWN, outer(FACTS['neighbour']))
    fcntl.fcntl(one, 10, signal.SIGKILL)
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC)
    other.send(b'x')
    time.sleep(0.05)
    raise OSError('the supervisor sees whether the neighbour lives')
tried('supervisor', lambda: os.kill(outer(FACTS['supervisor']), 0))
tried('neighbour', lambda: os.kill(outer(FACTS['neighbour']), 0))
tried('group of the neighbour', lambda: os.killpg(outer(FACTS['neighbour']), 0))
tried('guard', lambda: os.kill(outer(os.getppid()), 0))
tried('first process', lambda: os.kill(outer(1), 0))
tried('by a readable socket', owner)
if os.uname().machine == 'x86_64':
    pid = FACTS['neighbour']
    tried('thread', lambda: call(234, outer(pid), pid, 0))
    tried('by a descriptor', lambda: call(424, call(434, outer(pid), 0), 0, 0, 0))
    tried('queued', lambda: call(129, outer(pid), 0, 0))
""",
    ),
    Probe(
        name="signals everything",
        code="""
for target in (-1, -2, -os.getpgrp()):
    tried(f'kill {target if target > -3 else "of the group"}', lambda: os.kill(outer(target), 0))
""",
    ),
    Probe(
        name="slows processes down",
        code="""
pid = FACTS['neighbour']
def limited():
    if LIBC.prlimit(outer(pid), 7, (ctypes.c_uint64 * 2)(64, 64), None):
        raise OSError('refused')
tried('limits', limited)
tried('cores', lambda: os.sched_setaffinity(outer(pid), {0}))
tried('priority', lambda: os.setpriority(os.PRIO_PROCESS, outer(pid), 19))
tried('scheduler', lambda: os.sched_setscheduler(outer(pid), os.SCHED_BATCH, os.sched_param(0)))
needed('own cores', lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)))
""",
    ),
    Probe(
        name="fork bomb",
        code="for _ in range(6): os.fork()\ntime.sleep(4)",
        ended=("stopped",),
        reason="more than 32 processes",
        kernel_says="BlockingIOError",
        everywhere=True,
    ),
    Probe(
        name="thread bomb",
        code="""
import threading
for _ in range(64): threading.Thread(target=time.sleep, args=(4,), daemon=True).start()
time.sleep(4)
""",
        ended=("stopped",),
        reason="more than 32 processes",
        kernel_says="can't start new thread",
        everywhere=True,
    ),
    Probe(
        name="stays behind",
        code="""
import signal
def stay(*, session, deaf, reaper):
    if os.fork():
        return
    if session:
        try:
            os.setsid()
        except OSError:
            pass
    if deaf:
        for number in set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
    LIBC.prctl(1, 0, 0, 0, 0)
    if reaper:
        LIBC.prctl(36, 1, 0, 0, 0)
    for descriptor in range(3):
        os.close(descriptor)
    if os.fork() == 0 or reaper:
        time.sleep(20)
    os._exit(0)
stay(session=True, deaf=False, reaper=False)
stay(session=True, deaf=True, reaper=False)
stay(session=False, deaf=True, reaper=True)
time.sleep(0.2)
""",
        everywhere=True,
    ),
    Probe(
        name="forks away",
        code="""
until = time.monotonic() + 4
if os.fork() == 0:
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
""",
        everywhere=True,
    ),
]

# numbers of x86_64; the arguments are wrong on purpose, so that a call which passes does nothing
_CALLS = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "bpf": 321, "userfaultfd": 323,
    "perf_event_open": 298, "add_key": 248, "request_key": 249, "keyctl": 250, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440,
    "pidfd_getfd": 438, "memfd_create": 319, "execveat": 322, "shmget": 29, "shmat": 30, "shmctl": 31, "msgget": 68,
    "msgsnd": 69, "msgrcv": 70, "msgctl": 71, "semget": 64, "semop": 65, "semtimedop": 220, "semctl": 66,
    "mq_open": 240, "mq_unlink": 241, "quotactl": 179, "quotactl_fd": 443, "modify_ldt": 154, "fanotify_init": 300,
    "clone3": 435, "mount_setattr": 442, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fspick": 433,
    "setns": 308,
}  # fmt: skip

CALLING = [
    Probe(
        name="makes unusual system calls",
        code=f"""
if os.uname().machine == 'x86_64':
    for name, number in {_CALLS!r}.items():
        reached(name, number, -1, -1, -1, -1, -1, -1)
"""
        + """
def as_on_a_386():
    import mmap
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, 20 (getpid); int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    assert ctypes.CFUNCTYPE(ctypes.c_long)(address)() > 0
if os.uname().machine == 'x86_64':
    tried('by the numbers of a 386', lambda: in_a_child(as_on_a_386))
    tried('by the numbers of x32', lambda: in_a_child(lambda: call(0x40000000 + 39)))
""",
    ),
    Probe(
        name="takes privileges",
        code="""
import subprocess
status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
def has(name, value):
    if status[name].strip() != value:
        raise OSError
tried('no lock on new privileges', lambda: has('NoNewPrivs', '0'))
for kind in ('CapEff', 'CapPrm', 'CapInh', 'CapAmb'):
    if int(status[kind], 16):
        print('through', kind)
def answers(answer):
    if answer < 0:
        raise OSError('refused')
tried('user namespace', lambda: in_a_child(lambda: answers(LIBC.unshare(0x10000000))))
tried('mount', lambda: answers(LIBC.mount(b'none', HERE.encode(), b'tmpfs', 0, None)))
tried('root', lambda: os.chroot(HERE))
tried('user', lambda: os.setuid(0 if os.getuid() else 65534) or has('CapEff', 'never'))
tried('device', lambda: os.mknod('device', 0o20600, os.makedev(1, 3)))
tried('host name', lambda: answers(LIBC.sethostname(b'x', 1)))
if os.uname().machine == 'x86_64':
    tried('user namespace by clone', lambda: in_a_child(lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0)))
""",
    ),
    Probe(
        name="finds credentials",
        code="""
if FACTS['secret'] in repr(os.environ):
    print('through environment')
for pid in ('self', os.getppid(), 1):
    try:
        if FACTS['secret'] in open(f'/proc/{pid}/environ').read():
            print('through environment of', pid)
    except OSError:
        pass
for name in os.environ:
    if name.startswith(('SLURM', 'SSH', 'MUNGE', 'AWS', 'HF_', 'DBUS', 'XDG')) or 'TOKEN' in name or 'KEY' in name:
        print('through variable', name)
for descriptor in range(3, 256):
    tried(f'descriptor {descriptor}', lambda: os.fstat(descriptor))
tried('terminal', lambda: open('/dev/tty').close())
if sys.stdin.read(1):
    print('through input')
if os.environ['HOME'] != HERE:
    print('through home', os.environ['HOME'])
""",
        everywhere=True,
    ),
    Probe(
        name="does what honest programs do",
        code="""
import multiprocessing, subprocess, tempfile, threading
def thread():
    done = threading.Thread(target=time.sleep, args=(0.01,))
    done.start()
    done.join()
def file():
    with tempfile.NamedTemporaryFile('w') as one:
        one.write('x')
    os.makedirs('a/b')
    open('a/b/c', 'w').write('x')
    os.rename('a/b/c', 'a/d')
def process():
    with multiprocessing.get_context('fork').Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
needed('clock', lambda: (time.time(), time.monotonic(), time.perf_counter(), time.process_time()))
needed('threads', thread)
needed('files', file)
needed('processes', lambda: subprocess.run(['/bin/true'], check=True))
needed('our packages', lambda: __import__('arch_search.jail'))
needed('random numbers', lambda: os.urandom(8))
needed('cores', lambda: len(os.sched_getaffinity(0)))
needed('memory map', lambda: open('/proc/self/maps').read())
""",
        everywhere=True,
    ),
    Probe(
        name="uses the accelerators",
        code="""
import fcntl
def used(path):
    node = os.open(path, os.O_RDWR)
    try:
        fcntl.ioctl(node, 0x5401)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise
for path in FACTS['accelerators']:
    needed(path, lambda: used(path))
""",
        everywhere=True,
    ),
]
