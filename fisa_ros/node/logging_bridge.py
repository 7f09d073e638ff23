"""Messages of the package's loggers in the log of a node."""

import logging

from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node

PACKAGE_LOGGER = 'fisa_ros'


class NodeLogHandler(logging.Handler):
    """Writes records to a node's logger; its level decides what is shown."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        text = self.format(record)
        # rclpy ties a level to each line that logs, so every level needs its own.
        if record.levelno >= logging.CRITICAL:
            self._logger.fatal(text)
        elif record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)


def attach_package_log(node: Node) -> NodeLogHandler:
    """Send what the package logs to the log of a node until `detach_package_log`."""
    handler = NodeLogHandler(node.get_logger())
    package = logging.getLogger(PACKAGE_LOGGER)
    package.addHandler(handler)
    package.setLevel(logging.DEBUG)
    package.propagate = False
    return handler


def detach_package_log(handler: NodeLogHandler) -> None:
    """Undo `attach_package_log`."""
    package = logging.getLogger(PACKAGE_LOGGER)
    package.removeHandler(handler)
    package.propagate = True
