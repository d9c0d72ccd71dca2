"""Probes that reach for files and services outside the folder of the program."""

from __future__ import annotations

from tests.jail.probe import Probe

FILES = [
    Probe(
        name="reads outside",
        code="""
secret = FACTS['outside'] + '/home/.ssh/id_ed25519'
os.symlink(secret, 'link')
def reopened():
    descriptor = os.open(secret, os.O_PATH)
    open(f'/proc/self/fd/{descriptor}').read()
tried('ssh key', lambda: open(secret).read())
tried('netrc', lambda: open(FACTS['outside'] + '/home/.netrc').read())
tried('journal of the campaign', lambda: open(FACTS['outside'] + '/campaign/journal.jsonl').read())
tried('folder of another task', lambda: os.listdir(FACTS['outside'] + '/campaign/tasks/other'))
tried('by a link', lambda: open('link').read())
tried('by a hard link', lambda: os.link(secret, 'hard'))
tried('by ..', lambda: open('../other/weights').read())
tried('by the root of the process', lambda: open('/proc/self/root' + secret).read())
tried('by a descriptor without rights', reopened)
""",
    ),
    Probe(
        name="reads the system",
        code="""
for path in FACTS['private']:
    tried(path, lambda: os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(1))
for path in FACTS['of others']:
    tried(path, lambda: open(path, 'rb').read(1))
""",
    ),
    Probe(
        name="looks at metadata",
        code="""
secret = FACTS['outside'] + '/home/.ssh/id_ed25519'
def inotify(path):
    call(254, call(253), path.encode(), 0x3)
tried('size and times', lambda: os.stat(secret))
tried('folder as working folder', lambda: os.chdir(FACTS['outside'] + '/home'))
if os.uname().machine == 'x86_64':
    tried('watching', lambda: inotify(secret))
""",
        open_on={"landlock": ("size and times", "folder as working folder")},
    ),
    Probe(
        name="writes outside",
        code="""
out = FACTS['outside'] + '/campaign/'
tried('new file', lambda: open(out + 'new', 'w').close())
tried('append', lambda: open(out + 'journal.jsonl', 'a').write('x'))
tried('mode', lambda: os.chmod(out + 'journal.jsonl', 0o600))
tried('owner', lambda: os.chown(out + 'journal.jsonl', os.getuid(), os.getgid()))
tried('times', lambda: os.utime(out + 'journal.jsonl', (0, 0)))
tried('attribute', lambda: os.setxattr(out + 'journal.jsonl', 'user.x', b'x'))
tried('truncate', lambda: os.truncate(out + 'journal.jsonl', 0))
tried('rename', lambda: os.rename(out + 'journal.jsonl', out + 'moved'))
tried('replace by a file of its own', lambda: (open('own', 'w').close(), os.rename('own', out + 'journal.jsonl')))
tried('remove', lambda: os.unlink(out + 'moved'))
tried('folder', lambda: os.mkdir(out + 'folder'))
tried('link', lambda: os.symlink('x', out + 'link'))
tried('pipe', lambda: os.mkfifo(out + 'pipe'))
""",
    ),
    Probe(
        name="writes the system",
        code="""
name = FACTS['marker']
def made(path):
    open(path, 'w').close()
    os.unlink(path)
for folder in ('/dev/shm', '/tmp', '/var/tmp', '/run', '/etc', '/dev', '/', '/usr/lib', '/run/user/%d' % os.getuid()):
    tried('file in ' + folder, lambda: made(f'{folder}/{name}'))
for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/sys/kernel/uevent_helper', '/dev/kmsg'):
    tried(path, lambda: os.close(os.open(path, os.O_WRONLY)))
tried('control group', lambda: os.close(os.open('/sys/fs/cgroup/cgroup.procs', os.O_WRONLY)))
for path in ('/dev/mem', '/dev/loop-control', '/dev/fuse', '/dev/kvm', '/dev/vda', '/dev/sda', '/dev/nvme0n1'):
    tried(path, lambda: os.close(os.open(path, os.O_RDONLY)))
""",
    ),
    Probe(
        name="changes what it may only read",
        code="""
path = FACTS['library']
file = open(path)
tried('content', lambda: open(path, 'a').close())
tried('mode', lambda: os.fchmod(file.fileno(), 0o640))
tried('owner', lambda: os.fchown(file.fileno(), os.getuid(), os.getgid()))
tried('times', lambda: os.utime(file.fileno(), (0, 0)))
tried('attribute', lambda: os.setxattr(file.fileno(), 'user.x', b'x'))
tried('truncate', lambda: os.truncate(path, 0))
def locked():
    import fcntl
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
tried('lock', locked)
""",
        open_on={"bwrap": ("lock",), "landlock": ("lock",)},
    ),
    Probe(
        name="spoils its own folder",
        code="""
import shutil
shutil.rmtree('tmp')
os.symlink('/dev/null', 'tmp')
os.rename('.imports', 'imports')
os.mkdir('.imports')
os.mkdir('.imports/kept')
open('.imports/kept/file', 'w').close()
os.mkdir('.imports/closed', 0)
try:
    os.chmod('.imports/kept', 0)
    os.chmod(HERE, 0)
except PermissionError:
    pass
""",
        again=True,
        everywhere=True,
    ),
    Probe(
        name="leaves a result that is no result",
        code="""
os.symlink(FACTS['outside'] + '/home/.netrc', 'link')
os.mkdir('folder')
os.symlink('/dev/zero', 'device')
open('large', 'wb').write(bytes(70_000))
""",
        everywhere=True,
    ),
]

SOCKETS = [
    Probe(
        name="opens sockets",
        code="""
import socket
def opened(family):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            return socket.socket(family, kind)
        except OSError as error:
            refused = error
    raise refused
names = {int(family): family.name for family in socket.AddressFamily}
for family in range(1, 46):
    tried(names.get(family, f'family {family}'), lambda: opened(family))
tried('raw pair', lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_RAW))
tried('datagram pair', lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
def pair():
    one, other = socket.socketpair()
    one.send(b'x')
    assert other.recv(1) == b'x'
needed('pair', pair)
""",
    ),
    Probe(
        name="talks to services",
        code="""
import socket
def connected(family, address, kind=socket.SOCK_STREAM):
    socket.socket(family, kind).connect(address)
def sent(kind, address):
    socket.socketpair(socket.AF_UNIX, kind)[0].sendto(b'x', address)
tried('unix socket by its path', lambda: connected(socket.AF_UNIX, FACTS['unix']))
tried('unix socket without a path', lambda: connected(socket.AF_UNIX, '\\0' + FACTS['marker']))
tried('TCP on this machine', lambda: connected(socket.AF_INET, ('127.0.0.1', FACTS['port'])))
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
    tried(f'datagram from one of a pair, kind {int(kind)}', lambda: sent(kind, FACTS['datagrams']))
""",
    ),
    Probe(
        name="submits jobs",
        code="""
import socket, subprocess
def run(*command):
    try:
        done = subprocess.run(command, env={**os.environ, **FACTS['slurm']}, capture_output=True, timeout=5)
    except subprocess.TimeoutExpired:
        raise OSError('no answer') from None
    if done.returncode:
        raise OSError(done.returncode)
if FACTS['slurm']:
    tried('sbatch', lambda: run('sbatch', '--test-only', '--wrap=true'))
    tried('srun', lambda: run('srun', '--test-only', 'true'))
    tried('scontrol', lambda: run('scontrol', '--oneliner', 'show', 'partitions'))
    tried('munge', lambda: run('munge', '-n', '--socket=' + FACTS['munge']))
for path in (FACTS['munge'], '/etc/munge/munge.key', *FACTS['slurm'].values()):
    tried(path, lambda: open(path, 'rb').read(1))
for port in FACTS['slurm ports']:
    tried(f'port {port}', lambda: socket.create_connection(('127.0.0.1', port), timeout=5))
""",
    ),
]
