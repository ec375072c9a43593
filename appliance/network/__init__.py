"""Networks of containers: who has which address, what is published, who answers to which name."""
