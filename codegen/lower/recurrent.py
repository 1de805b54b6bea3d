"""Lower lstm, gru and rnn to one kernel per direction.

The inputs of a block of time steps are projected in one product (biases are where its sums start); each step then adds
the product of the state and R, and the gates run in vector code.
"""

from __future__ import annotations
