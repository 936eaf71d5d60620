"""serve(): classifiers behind HTTP, for one machine.

    request ──▶ access ──▶ bodies ──▶ routes ──▶ queue ──▶ worker ──▶ Classifier
                key, host  size, time  JSON       bounded   one thread

The routes are asynchronous and never compute; the worker is the only thread that does.
"""

from __future__ import annotations
