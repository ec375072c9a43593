"""Sockets of containers that are relayed: each connection to a socket mount is carried to a socket of this host.

What a connection ends in is behind `dialer.Dialer`.
"""
