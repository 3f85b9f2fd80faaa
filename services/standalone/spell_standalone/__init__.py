"""The services on one machine: embedded Postgres and NATS, every service its own process, one supervisor."""
