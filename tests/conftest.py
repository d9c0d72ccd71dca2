"""For all tests."""

from __future__ import annotations

import signal

# a shell that starts tests in the background makes them ignore these, and so every program they start
for _word, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_word) is signal.SIG_IGN:
        signal.signal(_word, _handler)
