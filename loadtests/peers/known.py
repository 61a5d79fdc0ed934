"""Every peer there is."""

from __future__ import annotations

from loadtests.peers import bento_ml, infinity, lit_serve, ml_server, py_triton
from loadtests.peers.peer import Peer

PEERS: dict[str, Peer] = {
    module.PEER.name: module.PEER for module in (lit_serve, ml_server, bento_ml, infinity, py_triton)
}
