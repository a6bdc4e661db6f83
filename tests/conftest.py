"""A shell ignores SIGINT for what it starts in the background: for the tests, and all they start.

Some of these programs are interrupted by the tests.
"""

import signal

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
