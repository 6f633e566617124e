"""How missing shards are computed: on this machine's devices, or on a Ray cluster."""
