"""A corner of DDS for processes of our own: a domain that nobody else on this machine uses."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
import fcntl
import os
from pathlib import Path
import random
import socket
import tempfile

from fisa_ros.core.errors import FisaError
from fisa_ros.core.resources import share_dir

# Above 101 the ports would lie among those that Linux hands out to anybody.
_DOMAINS = range(1, 102)
_PARTICIPANTS = 8


@contextmanager
def reserved_domain() -> Iterator[int]:
    """Find a ROS domain that no process on this machine is in, and keep it for the block.

    Raises:
        FisaError: All of them are in use.
    """
    for domain_id in random.sample(_DOMAINS, len(_DOMAINS)):
        with ExitStack() as stack:
            path = Path(tempfile.gettempdir()) / f'fisa_ros_domain_{domain_id}_{os.getuid()}.lock'
            try:
                lock = stack.enter_context(path.open('w'))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            if _is_unused(domain_id):
                yield domain_id
                return
    raise FisaError(f'no ROS domain in {_DOMAINS.start}..{_DOMAINS.stop - 1} is free')


def domain_environment(domain_id: int) -> dict[str, str]:
    """Return the environment variables for processes that talk in this domain, on this machine only."""
    return {
        'ROS_DOMAIN_ID': str(domain_id),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        profiles_variable(): str(share_dir() / 'config' / 'fastdds.xml'),
    }


@contextmanager
def own_domain() -> Iterator[Path]:
    """Talk in a ROS domain of its own during the block; yields a folder that lives as long.

    Raises:
        FisaError: None is free.
    """
    with tempfile.TemporaryDirectory(prefix='fisa_ros_domain_') as name, reserved_domain() as domain_id:
        changed = domain_environment(domain_id) | {'ROS_LOG_DIR': str(Path(name) / 'ros')}
        before = {key: os.environ.get(key) for key in changed}
        os.environ.update(changed)
        try:
            yield Path(name)
        finally:
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value


def profiles_variable() -> str:
    """Return the environment variable in which Fast DDS looks for its profiles."""
    # Fast DDS 3 came with Kilted; it has a name of its own and warns of the other.
    distribution = os.environ.get('ROS_DISTRO') or os.environ.get('WHEELS') or 'jazzy'
    return 'FASTRTPS_DEFAULT_PROFILES_FILE' if distribution == 'jazzy' else 'FASTDDS_DEFAULT_PROFILES_FILE'


def _is_unused(domain_id: int) -> bool:
    """Tell whether the ports are free that the first participants of this domain would listen on (RTPS 9.6.1.1)."""
    first = 7400 + 250 * domain_id
    ports = [first, *(first + 10 + 2 * participant for participant in range(_PARTICIPANTS))]
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', port))
            except OSError:
                return False
    return True
