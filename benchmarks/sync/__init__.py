"""Campaigns on synchronisation and the simulator."""
