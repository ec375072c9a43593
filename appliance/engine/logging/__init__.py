"""The engine's side of log drivers: which containers have a log that is sent to a server, and when all of it is sent."""
