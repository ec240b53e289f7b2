"""The DMA checks that run in the guest, and the agent that runs them for the host."""
